"""What `outlex forecast` says against the acceptance that vLLM counted, for the prompts that it was given.

    python benchmarks/vllm/against_forecast.py --result acceptance-0.json --result acceptance-1.json \\
        --traces held-out-0 --traces held-out-1 --trimmed plugin-16384=DIR --trimmed plugin-preview=DIR -o forecast.json

The traces are other runs of the same prompts, made by outlex, or of the texts that vLLM wrote (trace_texts.py): with
those of one method at one temperature nothing but the luck of the draws is between the two numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from outlex.calibration.head_files import load_heads
from outlex.calibration.traces import TraceSet
from outlex.drafters import load_draft_head
from outlex.forecast import forecast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, action="append", required=True, help="of run.py")
    parser.add_argument("--traces", type=Path, action="append", required=True)
    parser.add_argument("--trimmed", action="append", required=True, help="METHOD=DIR, the method as in the result")
    parser.add_argument("--temperature", type=float, action="append", help="only these of the result's")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    results = [json.loads(path.read_text(encoding="utf-8")) for path in args.result]
    prompts = {name for result in results for row in result["rows"] for name in row["ids"]}
    artifacts = {name: load_draft_head(path) for name, path in (item.split("=", 1) for item in args.trimmed)}
    entries = [entry for result in results for entry in result["summary"]]
    if args.temperature:
        entries = [entry for entry in entries if entry["temperature"] in args.temperature]
    sets = [TraceSet.load(path) for path in args.traces]
    heads = load_heads(sets[0].header)
    found = forecast(
        [one.select(i for i, prompt in enumerate(one.prompts) if prompt.id in prompts) for one in sets],
        target_head=heads[0],
        drafter_head=heads[1],
        candidates=list(artifacts.values()),
        temperatures=sorted({entry["temperature"] for entry in entries}),
        draft_lens=[4],
    )
    said = {(cell.candidate, cell.temperature): cell for cell in found.cells if cell.domain is None}
    names = {"untrimmed": "untrimmed", **{method: artifact.name for method, artifact in artifacts.items()}}
    rows = []
    for entry in entries:
        cell = said.get((names.get(entry["method"], ""), entry["temperature"]))
        if cell is not None:
            rows.append(
                {
                    "temperature": entry["temperature"],
                    "method": entry["method"],
                    "n_forecast": cell.acceptance_rate.n,
                    "n_measured": entry["n_tested"],
                    "forecast": vars(cell.acceptance_rate),
                    "measured": {"value": entry["acceptance_rate"], "standard_error": entry["standard_error"]},
                    "difference": cell.acceptance_rate.value - entry["acceptance_rate"],
                    "block_efficiency": [cell.block_efficiency.value, entry["block_efficiency"]],
                }
            )
    args.output.write_text(json.dumps({"n_prompts": len(prompts), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(markdown({"rows": rows}))


def markdown(result: dict[str, Any]) -> str:
    """The rows as a table; ± is half a 95 % interval."""
    lines = [
        "| T | method | α forecast | α in vLLM | forecast − vLLM | tokens a pass: forecast | in vLLM |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        said, found = row["forecast"], row["measured"]
        lines.append(
            f"| {row['temperature']:g} | {row['method']} | {said['value']:.4f}"
            f" ({said['low']:.4f} to {said['high']:.4f}, n = {row['n_forecast']:,}) | {found['value']:.4f} ±"
            f" {1.96 * found['standard_error']:.4f} (n = {row['n_measured']:,}) | {row['difference']:+.4f} |"
            f" {row['block_efficiency'][0]:.2f} | {row['block_efficiency'][1]:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
