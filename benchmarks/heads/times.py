"""The time of a head step (scores, proposal, draw) next to the whole head's, heads taking turns in one run.

python benchmarks/heads/times.py --traces held-out-1 --head preview-3 --head preview-5 --threads 2 -o times.json

Growth with the vocabulary, previews of random heads fitted to random states:

python benchmarks/heads/times.py --synthetic 32768x640 65536x640 131072x640 262144x640 524288x640 1048576x640 \
    --threads 2 -o growth.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from outlex.bench.environment import describe_environment
from outlex.calibration.head_files import load_head
from outlex.calibration.traces import TraceSet
from outlex.drafters.artifacts import load_draft_head
from outlex.errors import InputError
from outlex.forecast.head_times import time_heads
from outlex.heads.base import DraftHead
from outlex.heads.linear import FullHead, LinearHead
from outlex.heads.preview import PreviewHead
from outlex.heads.preview_fit import PreviewSpace
from outlex.heads.preview_plan import PreviewPlan, affordable_plans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--head", type=Path, action="append", default=[])
    parser.add_argument("--synthetic", nargs="+", default=[], metavar="ROWSxDIM")
    parser.add_argument("--budget", type=float, default=0.03, help="bytes of a synthetic preview, of the head's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if bool(args.synthetic) == bool(args.traces and args.head):
        parser.error("give --traces and --head, or --synthetic")
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    if args.traces:
        rows += of_artifacts(args.traces, args.head, repeats=args.repeats)
    for shape in args.synthetic:
        n_rows, d = map(int, shape.split("x"))
        rows += of_random_head(n_rows, d, budget=args.budget, repeats=args.repeats)
    result = {"environment": describe_environment(torch.device("cpu")), "repeats": args.repeats, "rows": rows}
    args.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def of_artifacts(traces_path: Path, paths: list[Path], *, repeats: int) -> list[dict[str, Any]]:
    traces = TraceSet.load(traces_path)
    full, n_target = load_head(traces.header.drafter), traces.header.target.n_rows
    artifacts = [load_draft_head(path) for path in paths]
    heads: list[DraftHead] = [FullHead(full, n_target=n_target)]
    heads += [artifact.head_from(full, n_target=n_target) for artifact in artifacts]
    for head in heads:
        head.begin(traces.prompt_ids[traces.prompt_rows(0)].tolist())
    names = ["untrimmed", *(path.name for path in paths)]
    described = [None, *(artifact.describe() for artifact in artifacts)]
    hidden = traces.drafter_hidden[:64].to(full.weight.dtype)
    return timed(heads, hidden, names=names, described=described, repeats=repeats)


def of_random_head(n_rows: int, d: int, *, budget: float, repeats: int) -> list[dict[str, Any]]:
    """A preview's time depends on its shape, so random numbers do; its acceptance does not show here."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(n_rows, d, dtype=torch.bfloat16)
    for block in weight.split(1 << 14):
        block.copy_(torch.randn(block.shape, generator=generator) / d**0.5)
    full = LinearHead(weight=weight)
    hidden = torch.randn(256, d, generator=generator)
    plan = plan_of(full, budget)
    factor = PreviewSpace.fit(full, hidden).factor(plan.tiers, fine_rank=plan.fine_rank)
    preview = PreviewHead(
        full, factor, n_target=n_rows, n_candidates=plan.n_candidates, n_exact=plan.n_exact, name=f"preview of {n_rows}"
    )
    heads: list[DraftHead] = [FullHead(full, n_target=n_rows), preview]
    described = [{"rows": n_rows, "columns": d}, {"rows": n_rows, "columns": d, "plan": repr(plan)}]
    names = [f"untrimmed {n_rows}", preview.name]
    return timed(heads, hidden[:64].to(torch.bfloat16), names=names, described=described, repeats=repeats)


def plan_of(full: LinearHead, budget: float) -> PreviewPlan:
    """Of the plans that a budget buys, one shaped as the recorded previews are, so that sizes compare.

    A small head, of which the budget buys no preview, gets the next larger budget that does.
    """
    while True:
        try:
            plans = affordable_plans(full, max_bytes=int(budget * full.n_bytes))
        except InputError:
            if budget > 1:
                raise
            budget += 0.005
        else:
            return max(plans, key=lambda plan: (plan.tiers[0].rank == 127, plan.fine_rank == 224, plan.n_candidates))


def timed(
    heads: list[DraftHead], hidden: Tensor, *, names: list[str], described: list[Any], repeats: int
) -> list[dict[str, Any]]:
    """Rows of the result; the first head is the whole one."""
    whole, *_ = seconds = time_heads(heads, hidden, repeats=repeats)
    full_bytes = heads[0].bytes_per_step
    rows = []
    for name, own, head, description in zip(names, seconds, heads, described, strict=True):
        rows.append(
            {
                "head": name,
                "milliseconds": 1e3 * median(own),
                "of_full_time": median(own) / median(whole),
                "of_full_time_turn_by_turn": median(one / other for one, other in zip(own, whole, strict=True)),
                "of_full_bytes": head.bytes_per_step / full_bytes,
                "described": description,
            }
        )
        print("{head}: {milliseconds:.2f} ms, {of_full_time:.4f}, {of_full_bytes:.4f}".format(**rows[-1]))
    return rows


if __name__ == "__main__":
    main()
