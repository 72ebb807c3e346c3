"""What `outlex forecast` says against what `outlex bench` then measured: one row a method and temperature.

    outlex bench --target qwen15 --drafter qwen05 --trimmed DIR ... --prompts held-out.jsonl -o result.json
    python benchmarks/forecast/check.py --bench result.json --traces held-out-0 --traces held-out-1 --trimmed DIR ... \\
        -o check.json

The traces are of other runs than the benchmark's, and their prompts were used neither to rank tokens nor to fit heads.
Two forecasts are made: from the traces of the benchmark's own prompts, which compares like with like, and from all
prompts of the same domains, which adds the luck of the draw. Step times are the benchmark's, pooled over methods and
temperatures as `outlex forecast --bench` pools them; α and τ know nothing of the benchmark.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from outlex.bench import BenchResult
from outlex.calibration.head_files import load_head
from outlex.calibration.traces import TraceSet
from outlex.cli.forecast_times import times_of_bench
from outlex.drafters.artifacts import load_draft_head
from outlex.forecast import forecast


def check(args: argparse.Namespace) -> dict[str, Any]:
    bench = BenchResult.load(args.bench)
    measured = {(one.method, one.temperature): one for one in bench.summary if one.acceptance is not None}
    prompts = {row.prompt_id for row in bench.rows}
    domains = {row.domain for row in bench.rows}
    sets = [TraceSet.load(path) for path in args.traces]
    header = sets[0].header
    heads = [load_head(header.target), load_head(header.drafter)]
    artifacts = [load_draft_head(path) for path in args.trimmed]
    rows = []
    for scope in ("same prompts", "same domains"):
        chosen = [
            one.select(
                i
                for i, prompt in enumerate(one.prompts)
                if (prompt.id in prompts if scope == "same prompts" else prompt.domain in domains)
            )
            for one in sets
        ]
        found = forecast(
            chosen,
            target_head=heads[0],
            drafter_head=heads[1],
            candidates=artifacts,
            temperatures=sorted({temperature for _, temperature in measured}),
            draft_lens=[int(bench.config["draft_len"])],
            times=times_of_bench(args.bench),
        )
        for cell in found.cells:
            seen = measured.get((cell.candidate, cell.temperature))
            if cell.domain is not None or seen is None or seen.acceptance is None or cell.tokens_per_s is None:
                continue
            alpha = seen.acceptance.beta
            rows.append(
                {
                    "scope": scope,
                    "method": cell.candidate,
                    "temperature": cell.temperature,
                    "forecast_positions": cell.n_positions,
                    "forecast_prompts": cell.n_prompts,
                    "forecast_alpha": vars(cell.acceptance_rate),
                    "measured_alpha": vars(alpha),
                    "alpha_error": cell.acceptance_rate.value - alpha.value,
                    "forecast_tau": cell.block_efficiency.value,
                    "measured_tau": seen.block_efficiency,
                    "forecast_tokens_per_s": cell.tokens_per_s,
                    "measured_tokens_per_s": seen.tokens_per_s,
                    "speed_error": cell.tokens_per_s / seen.tokens_per_s - 1,
                }
            )
    return {"environment": bench.environment, "config": bench.config, "rows": rows}


def markdown(rows: list[dict[str, Any]], *, scope: str) -> str:
    lines = [
        "| T | method | α forecast | α measured | difference | τ forecast | measured | tokens/s forecast | measured"
        " | difference |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row["scope"] != scope:
            continue
        alphas = (row["forecast_alpha"], row["measured_alpha"])
        shown = (f"{one['value']:.3f} ± {(one['high'] - one['low']) / 2:.3f}" for one in alphas)
        lines.append(
            f"| {row['temperature']:g} | {row['method']} | {' | '.join(shown)} | {row['alpha_error']:+.3f}"
            f" | {row['forecast_tau']:.2f} | {row['measured_tau']:.2f} | {row['forecast_tokens_per_s']:.2f}"
            f" | {row['measured_tokens_per_s']:.2f} | {row['speed_error']:+.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--traces", type=Path, action="append", required=True)
    parser.add_argument("--trimmed", type=Path, action="append", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    result = check(args)
    args.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for scope in ("same prompts", "same domains"):
        print(f"\n{scope}\n\n{markdown(result['rows'], scope=scope)}")


if __name__ == "__main__":
    main()
