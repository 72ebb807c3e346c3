"""What `outlex forecast` says against what `outlex bench` then measured: one row a method and temperature.

    outlex bench ... --batch-size 35 --temperature 0 -o alpha-0.json          # acceptance
    outlex bench ... -o result.json                                           # speed, one request at a time
    python benchmarks/forecast/check.py --acceptance alpha-0.json --acceptance alpha-1.json --speed result.json \\
        --traces held-out-0 --traces held-out-1 --trimmed DIR ... -o check.json

The traces are of other runs than the benchmarks', and their prompts were used neither to rank tokens nor to fit heads.
Each forecast is made from the traces of the benchmark's own prompts, so that forecast and measurement differ by what
was sampled and by what is wrong, not by which prompts were drawn: the interval of their difference takes prompts as
pairs. Step times are the speed benchmark's own; α and τ know nothing of any benchmark.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from outlex.bench import BenchResult
from outlex.bench.rows import Row
from outlex.calibration.head_files import load_heads
from outlex.calibration.traces import TraceSet
from outlex.cli.forecast_times import times_of_bench
from outlex.drafters.artifacts import load_draft_head
from outlex.forecast import Forecast, forecast
from outlex.metrics import clustered_ratio

Sums = dict[str, tuple[float, float]]  # prompt -> numerator and denominator of its rate


def per_prompt(traces: TraceSet) -> TraceSet:
    """Every prompt a domain of its own: a forecast then has a cell for each."""
    prompts = tuple(replace(prompt, domain=prompt.id) for prompt in traces.prompts)
    return replace(traces, header=replace(traces.header, prompts=prompts))


def forecasts(args: argparse.Namespace, benches: Sequence[BenchResult], **options: Any) -> Forecast:
    """Of what the benchmarks measured: their prompts, methods and temperatures."""
    rows = [row for bench in benches for row in bench.rows]
    prompts, methods = {row.prompt_id for row in rows}, {row.method for row in rows}
    sets = [TraceSet.load(path) for path in args.traces]
    artifacts = [load_draft_head(path) for path in args.trimmed]
    chosen = [one.select(i for i, prompt in enumerate(one.prompts) if prompt.id in prompts) for one in sets]
    target_head, drafter_head = load_heads(sets[0].header)
    return forecast(
        [per_prompt(one) for one in chosen],
        target_head=target_head,
        drafter_head=drafter_head,
        candidates=[one for one in artifacts if one.name in methods],
        temperatures=sorted({row.temperature for row in rows}),
        draft_lens=[int(benches[0].config["draft_len"])],
        **options,
    )


def difference(first: Sums, second: Sums) -> dict[str, float]:
    """Of two ratios of sums over the same prompts, with its 95 % interval: what a prompt does to both cancels."""
    (a, m), (b, n) = (np.array([own[prompt] for prompt in first]).T for own in (first, second))
    one, other = a.sum() / m.sum(), b.sum() / n.sum()
    influence = (a - one * m) / m.sum() - (b - other * n) / n.sum()
    n_prompts = len(first)
    variance = n_prompts / (n_prompts - 1) * float((influence**2).sum())
    half = float(t.ppf(0.975, n_prompts - 1)) * variance**0.5
    return {"value": float(one - other), "low": float(one - other - half), "high": float(one - other + half)}


def repeatability(rows: Sequence[Row], alpha: float) -> float | None:
    """Half of the 95 % interval of α for these very prompts, from how repeated runs of a prompt differ."""
    runs: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        runs.setdefault(row.prompt_id, []).append((row.sum_beta or 0.0, row.n_tested or 0))
    if min(len(own) for own in runs.values()) < 2:
        return None
    total = sum(row.n_tested or 0 for row in rows)
    errors = [np.array([beta - alpha * n for beta, n in own]) for own in runs.values()]
    variance = sum(len(own) * float(own.var(ddof=1)) for own in errors) / total**2
    return float(t.ppf(0.975, sum(len(own) - 1 for own in errors))) * variance**0.5


def acceptance(args: argparse.Namespace) -> list[dict[str, Any]]:
    benches = [BenchResult.load(path) for path in args.acceptance]
    measured = [row for bench in benches for row in bench.rows]
    found = forecasts(args, benches)
    cells = []
    for temperature in sorted({row.temperature for row in measured}):
        for method in dict.fromkeys(row.method for row in measured):
            rows = [row for row in measured if (row.method, row.temperature) == (method, temperature)]
            if not rows:
                continue
            own = [cell for cell in found.cells if (cell.candidate, cell.temperature) == (method, temperature)]
            whole = next(cell for cell in own if cell.domain is None)
            said = {
                str(cell.domain): (cell.acceptance_rate.value * cell.acceptance_rate.n, float(cell.acceptance_rate.n))
                for cell in own
                if cell.domain is not None and cell.acceptance_rate.n
            }
            sums = dict[str, list[float]]()
            for row in rows:
                both = sums.setdefault(row.prompt_id, [0.0, 0.0])
                both[0] += row.sum_beta or 0.0
                both[1] += row.n_tested or 0
            shared = [prompt for prompt in said if sums.get(prompt, [0.0, 0.0])[1]]
            seen = {prompt: (sums[prompt][0], sums[prompt][1]) for prompt in shared}
            alpha = clustered_ratio(*zip(*seen.values(), strict=True))
            n_tokens, n_passes = sum(row.n_tokens for row in rows), sum(row.n_passes or 0 for row in rows)
            cells.append(
                {
                    "temperature": temperature,
                    "method": method,
                    "n_prompts": len(shared),
                    "n_forecast": whole.acceptance_rate.n,
                    "n_measured": alpha.n,
                    "forecast": vars(whole.acceptance_rate),
                    "measured": vars(alpha),
                    "measured_again": repeatability(rows, alpha.value),
                    "difference": difference({prompt: said[prompt] for prompt in shared}, seen),
                    "forecast_tau": whole.block_efficiency.value,
                    "measured_tau": n_tokens / n_passes,
                }
            )
    return cells


def speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    bench = BenchResult.load(args.speed)
    found = forecasts(args, [bench], times=times_of_bench(args.speed))
    rows = []
    for seen in bench.summary:
        if seen.acceptance is not None:
            cell = found.cell(seen.method, temperature=seen.temperature, draft_len=int(bench.config["draft_len"]))
            assert cell.tokens_per_s is not None
            # with the tokens a pass that were measured, what is left of the error is the step times'
            given_tau = cell.tokens_per_s * seen.block_efficiency / cell.block_efficiency.value
            rows.append(
                {
                    "temperature": seen.temperature,
                    "method": seen.method,
                    "n_prompts": seen.n_runs,
                    "forecast_tau": cell.block_efficiency.value,
                    "measured_tau": seen.block_efficiency,
                    "forecast": cell.tokens_per_s,
                    "measured": seen.tokens_per_s,
                    "error": cell.tokens_per_s / seen.tokens_per_s - 1,
                    "error_given_tau": given_tau / seen.tokens_per_s - 1,
                }
            )
    return sorted(rows, key=lambda row: float(row["temperature"]))


def acceptance_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| T | method | tested positions | α forecast | α measured | difference | τ forecast | measured |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        gap = row["difference"]
        again = "" if row["measured_again"] is None else f" ± {row['measured_again']:.3f}"
        lines.append(
            f"| {row['temperature']:g} | {row['method']} | {row['n_measured']:,} | {row['forecast']['value']:.3f}"
            f" | {row['measured']['value']:.3f}{again} | {gap['value']:+.3f} ± {(gap['high'] - gap['low']) / 2:.3f}"
            f" | {row['forecast_tau']:.2f} | {row['measured_tau']:.2f} |"
        )
    return "\n".join(lines)


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| T | method | τ forecast | measured | tokens/s forecast | measured | error | error given τ |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['temperature']:g} | {row['method']} | {row['forecast_tau']:.2f} | {row['measured_tau']:.2f}"
        f" | {row['forecast']:.2f} | {row['measured']:.2f} | {row['error']:+.1%} | {row['error_given_tau']:+.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acceptance", type=Path, action="append", required=True)
    parser.add_argument("--speed", type=Path, required=True)
    parser.add_argument("--traces", type=Path, action="append", required=True)
    parser.add_argument("--trimmed", type=Path, action="append", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    benches = {path.name: BenchResult.load(path) for path in [*args.acceptance, args.speed]}
    result = {
        "benchmarks": {
            name: {"environment": bench.environment, "config": bench.config} for name, bench in benches.items()
        },
        "acceptance": acceptance(args),
        "speed": speed(args),
    }
    args.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(acceptance_table(result["acceptance"]), speed_table(result["speed"]), sep="\n\n")


if __name__ == "__main__":
    main()
