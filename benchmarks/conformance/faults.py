"""Seeded faults through the black box, and false alarms without one: the tables of docs/conformance.md.

    python benchmarks/conformance/faults.py -o benchmarks/conformance/faults.json

Toy engines (tests/support/faulty_engines.py): our decoding loop over tables of 24 tokens with one fault each, outputs
of 8 tokens, 3 drafts a block, α = 0.01. "Known" tells the test which tokens the drafter has and its law; "unknown"
tells it nothing. A null run is the same engine without a fault, 150 outputs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from outlex.bench.environment import describe_environment
from outlex.conformance import CheckConfig, verify_engine
from outlex.sampling import SamplingParams

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from faulty_engines import FAULTS, HARMLESS, HOT, PROMPTS, DrafterReference, ToyEngine, reference

LIMIT = 2000


def flagged_at(engine: ToyEngine, params: SamplingParams, *, known: bool, n_samples: int, seed: int) -> int | None:
    """Outputs until the alarm; None if there was none."""
    found = verify_engine(
        engine,
        reference(),
        PROMPTS,
        CheckConfig(params=params, n_samples=n_samples, greedy_tokens=0, seed=seed),
        target_name="toy",
        drafter=DrafterReference() if known else None,
        draft_ids=torch.tensor(HOT) if known else None,
    )
    assert found.sampled is not None
    return found.sampled.flagged_at


def measure(n_repeats: int, n_null: int) -> dict[str, Any]:
    """Everything, JSON values."""
    rows = []
    for name, (make, params) in FAULTS.items():
        row: dict[str, Any] = {"fault": name, "params": str(params)}
        for known in (True, False):
            row["known" if known else "unknown"] = [
                flagged_at(make(), params, known=known, n_samples=LIMIT, seed=10**6 * repeat)
                for repeat in range(n_repeats)
            ]
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    harmless = [
        {
            "fault": name,
            "known": [
                flagged_at(make(), SamplingParams(), known=True, n_samples=LIMIT, seed=10**6 * r) for r in range(1)
            ],
        }
        for name, make in HARMLESS.items()
    ]
    null = [
        flagged_at(ToyEngine(), SamplingParams(), known=True, n_samples=150, seed=10**7 + 1000 * run)
        for run in range(n_null)
    ]
    return {
        "limit": LIMIT,
        "faults": rows,
        "harmless": harmless,
        "null": {"n_runs": n_null, "n_samples": 150, "alarms": sum(found is not None for found in null)},
        "environment": describe_environment(torch.device("cpu")),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table of faults: outputs until the alarm, median and largest."""
    lines = ["| fault | drafter known | nothing known |", "|---|---|---|"]
    for row in result["faults"]:
        lines.append(f"| {row['fault']} | {_outputs(row['known'])} | {_outputs(row['unknown'])} |")
    for row in result["harmless"]:
        lines.append(f"| *{row['fault']}* | {_outputs(row['known'])}: keeps the law | – |")
    return "\n".join(lines)


def false_alarms(result: dict[str, Any]) -> str:
    """The sentence below the table."""
    null = result["null"]
    return f"alarms in {null['n_runs']} runs of {null['n_samples']} outputs: {null['alarms']}"


def _outputs(found: list[int | None]) -> str:
    seen = [one for one in found if one is not None]
    if not seen:
        return f"not in {LIMIT:,}"
    middle = f"{median(seen):g} (at most {max(seen)})" if len(seen) > 1 else str(seen[0])
    return middle if len(seen) == len(found) else f"{middle}; {len(found) - len(seen)} of {len(found)} not in {LIMIT:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--null-runs", type=int, default=100)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(arguments.repeats, arguments.null_runs)
    arguments.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{markdown(result)}\n\n{false_alarms(result)}")


if __name__ == "__main__":
    main()
