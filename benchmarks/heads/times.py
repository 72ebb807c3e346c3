"""The time of a head step (scores, proposal, draw) next to the whole head's, heads taking turns in one run.

python benchmarks/heads/times.py --traces held-out-1 --head preview-3 --head preview-5 --threads 2 -o times.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

import torch

from outlex.bench.environment import describe_environment
from outlex.calibration.head_files import load_head
from outlex.calibration.traces import TraceSet
from outlex.drafters.artifacts import load_draft_head
from outlex.forecast.head_times import time_heads
from outlex.heads.base import DraftHead
from outlex.heads.linear import FullHead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--head", type=Path, action="append", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    traces = TraceSet.load(args.traces)
    full, n_target = load_head(traces.header.drafter), traces.header.target.n_rows
    artifacts = [load_draft_head(path) for path in args.head]
    heads: list[DraftHead] = [FullHead(full, n_target=n_target)]
    heads += [artifact.head_from(full, n_target=n_target) for artifact in artifacts]
    for head in heads:
        head.begin(traces.prompt_ids[traces.prompt_rows(0)].tolist())
    hidden = traces.drafter_hidden[:64].to(full.weight.dtype)
    seconds = [median(own) for own in time_heads(heads, hidden, repeats=args.repeats)]
    rows = [
        {
            "head": path.name,
            "milliseconds": 1e3 * own,
            "of_full_time": own / seconds[0],
            "of_full_bytes": head.bytes_per_step / full.n_bytes,
            "described": described,
        }
        for path, own, head, described in zip(
            [Path("untrimmed"), *args.head], seconds, heads, [None, *(a.describe() for a in artifacts)], strict=True
        )
    ]
    result = {"environment": describe_environment(torch.device("cpu")), "repeats": args.repeats, "rows": rows}
    args.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['head']}: {row['milliseconds']:.2f} ms, {row['of_full_time']:.3f}, {row['of_full_bytes']:.4f}")


if __name__ == "__main__":
    main()
