"""TLI's α on held-out traces for lists ranked by counts alone, by mean target probability alone, and by their mixture.

    outlex count gsm8k=gsm8k_chat.jsonl prompts=calibration.jsonl --tokenizer qwen15 -o counts.safetensors
    outlex trace --target qwen15 --drafter qwen05 --prompts calibration.jsonl -o calibration-traces
    outlex trace --target qwen15 --drafter qwen05 --prompts held-out.jsonl -o held-out-traces
    python benchmarks/selection/tli_alpha.py --counts counts.safetensors --calibration calibration-traces \\
        --held-out held-out-traces -o tli_alpha.json

No prompt is in both sets of traces. Every list keeps the must-keep tokens. α is mean β = Σ_v min(p_v, q̃_v) over all
positions; intervals are 95 %, prompts as clusters, and differences are taken position by position.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outlex.bench.environment import describe_environment
from outlex.calibration.head_files import load_head, load_tokenizer_facts
from outlex.calibration.traces import TraceSet
from outlex.forecast.candidates import candidates_for
from outlex.forecast.overlaps import overlap_table
from outlex.metrics import Estimate, clustered_ratio
from outlex.proposals.tli import Tli
from outlex.selection.ranking import rank
from outlex.selection.sources import read_evidence
from outlex.vocab.must_keep import must_keep
from outlex.vocab.sub_vocab import SubVocab

SHARES = (0.25, 0.10, 0.05, 0.01)
RANKINGS = ("counts", "mean probability", "mixture")


def mean_by_prompt(values: np.ndarray, prompts: np.ndarray, chosen: np.ndarray) -> Estimate:
    n = int(prompts.max()) + 1
    sums = np.bincount(prompts[chosen], weights=values[chosen], minlength=n)
    return clustered_ratio(sums.tolist(), np.bincount(prompts[chosen], minlength=n).tolist())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    held_out = TraceSet.load(args.held_out)
    header = held_out.header
    facts = load_tokenizer_facts(header.drafter)
    kept = must_keep(facts, stop_ids=[i for i in header.stop_ids if i < facts.n_entries])
    sources = {
        "counts": ([args.counts], "counts"),
        "mean probability": ([args.calibration], "counts"),  # a trace's counts are Σ p
        "mixture": ([args.counts, args.calibration], "mixture"),
    }
    orders = {
        name: rank(read_evidence(paths, facts=facts), facts=facts, must_keep=kept, by=by)
        for name, (paths, by) in sources.items()
    }
    n_rows = header.drafter.n_rows
    labels = [(name, share) for name in RANKINGS for share in SHARES]
    vocabs = [
        SubVocab.from_ranking(
            orders[name].ids,
            size=round(share * n_rows),
            facts=facts,
            n_target=min(header.target.n_rows, n_rows),
            must_keep=kept,
            provenance=orders[name].provenance,
        )
        for name, share in labels
    ]
    target_head, drafter_head = load_head(header.target), load_head(header.drafter)
    candidates = candidates_for(vocabs, traces=held_out, target_head=target_head, drafter_head=drafter_head)
    temperature = 1.0 if held_out.temperature is None else held_out.temperature
    table = overlap_table(
        held_out,
        target_head=target_head,
        drafter_head=drafter_head,
        candidates=candidates,
        temperatures=[temperature],
        proposal=Tli(),
        tokens_per_pass=3,
        on_progress=lambda n_done, n: None,
    )
    prompts = held_out.prompt_index.numpy().astype(np.int64)
    domain_of_prompt = np.array([prompt.domain for prompt in held_out.prompts])
    cells = [table.cells[i, temperature] for i in range(len(candidates))]
    rows, gains = [], []
    for domain in (None, *held_out.domains):
        chosen = np.ones(len(prompts), dtype=bool) if domain is None else domain_of_prompt[prompts] == domain
        whole = mean_by_prompt(cells[0].beta, prompts, chosen)
        rows.append({"domain": domain, "ranking": "untrimmed", "share": 1.0, "alpha": asdict(whole), "coverage": 1.0})
        for (name, share), cell in zip(labels, cells[1:], strict=True):
            rows.append(
                {
                    "domain": domain,
                    "ranking": name,
                    "share": share,
                    "alpha": asdict(mean_by_prompt(cell.beta, prompts, chosen)),
                    "coverage": 1 - float(cell.oov_mass[chosen].mean()),
                }
            )
        for i, share in enumerate(SHARES):
            own = {name: cells[1 + RANKINGS.index(name) * len(SHARES) + i].beta for name in RANKINGS}
            for other in RANKINGS[:2]:
                gain = mean_by_prompt(own["mixture"] - own[other], prompts, chosen)
                gains.append({"domain": domain, "share": share, "over": other, **asdict(gain)})
    return {
        "environment": describe_environment(torch.device("cpu")),
        "target": header.target.name,
        "drafter": header.drafter.name,
        "temperature": temperature,
        "n_positions": len(held_out),
        "n_prompts": len(held_out.prompts),
        "rows": rows,
        "gains": gains,
    }


def markdown(result: dict[str, Any]) -> str:
    domains = list(dict.fromkeys(row["domain"] for row in result["rows"]))
    heads = ["all" if domain is None else domain for domain in domains]
    lines = ["| rows kept | ranking | " + " | ".join(heads) + " |", "|---" * (len(domains) + 2) + "|"]
    keys = dict.fromkeys((row["share"], row["ranking"]) for row in result["rows"])
    for share, name in sorted(keys, key=lambda key: -key[0]):
        own = [row for row in result["rows"] if (row["share"], row["ranking"]) == (share, name)]
        shown = (f"{row['alpha']['value']:.4f} ({row['coverage']:.3f})" for row in own)
        lines.append(f"| {share:.0%} | {name} | " + " | ".join(shown) + " |")
    lines += ["", "The mixture's α less another's, in points, with 95 % intervals:", ""]
    lines += ["| rows kept | over | " + " | ".join(heads) + " |", "|---" * (len(domains) + 2) + "|"]
    for share in SHARES:
        for other in RANKINGS[:2]:
            own = [row for row in result["gains"] if (row["share"], row["over"]) == (share, other)]
            shown = (f"{row['value'] * 100:+.1f} ± {(row['high'] - row['low']) * 50:.1f}" for row in own)
            lines.append(f"| {share:.0%} | {other} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=Path, required=True, help="statistics of `outlex count`")
    parser.add_argument("--calibration", type=Path, required=True, help="traces to rank by")
    parser.add_argument("--held-out", type=Path, required=True, help="traces of other prompts")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    result = measure(args)
    args.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
