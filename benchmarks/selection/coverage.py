"""Coverage on held-out prompts of three rankings: counts alone, the tokenizer's own order alone, and the mixture.

    python benchmarks/selection/coverage.py qwen05 --chats gsm8k_chat.jsonl --prompts prompts.jsonl -o coverage.json

Counted are the assistant's turns of the chats and every second prompt of each domain; reported are the other prompts,
so no prompt is on both sides. Prompts stand in for the text of their domain. Each ranking keeps the must-keep tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outlex.bench.environment import describe_environment
from outlex.bench.workload import read_prompts
from outlex.metrics import Estimate, clustered_ratio
from outlex.models.tokenizer import load_tokenizer
from outlex.selection.evidence import DomainEvidence, Evidence
from outlex.selection.ranking import rank
from outlex.selection.report import coverage_by_domain
from outlex.vocab.must_keep import must_keep
from outlex.vocab.selection import select_ids
from outlex.vocab.tokenizer_facts import facts_of

SHARES = (0.25, 0.10, 0.05, 0.01)


def domain_of(name: str, texts: Iterable[str], tokenizer: Any, *, n_entries: int) -> DomainEvidence:
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ids = torch.tensor([i for text in encoded for i in text])
    prompts = torch.repeat_interleave(torch.arange(len(encoded)), torch.tensor([len(text) for text in encoded]))
    counts = torch.bincount(ids, minlength=n_entries).double()
    return DomainEvidence(name=name, counts=counts, positions=(ids, prompts))


def chat_answers(path: Path) -> Iterable[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield "".join(m["content"] for m in json.loads(line)["messages"] if m["role"] == "assistant")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    tokenizer = load_tokenizer(args.model)
    facts = facts_of(tokenizer)
    kept = must_keep(facts)
    texts: dict[str, list[str]] = {}
    for record in read_prompts(args.prompts):
        texts.setdefault(record.domain, []).append(record.text or "")
    halves = [
        [domain_of(name, own[half::2], tokenizer, n_entries=facts.n_entries) for name, own in texts.items()]
        for half in (0, 1)
    ]
    chats = domain_of("chats", chat_answers(args.chats), tokenizer, n_entries=facts.n_entries)
    counted = Evidence(domains=(chats, *halves[0]), sources=({"source": "chats and half of the prompts"},))
    held_out = Evidence(domains=tuple(halves[1]), sources=({"source": "the other half"},))
    mixture = rank(counted, facts=facts, must_keep=kept)
    orders = {
        "counts": rank(counted, facts=facts, must_keep=kept, by="counts").ids,
        "tokenizer order": torch.tensor([], dtype=torch.int64),  # what is not ranked follows in the order of the ids
        "mixture": mixture.ids,
    }
    rows, gains = [], []
    for share in SHARES:
        size = round(share * args.n_rows)
        chosen: dict[str, Tensor] = {}
        for name, order in orders.items():
            ids = select_ids(order, size=size, facts=facts, n_target=args.n_rows, must_keep_ids=kept.ids).ids
            chosen[name] = torch.zeros(facts.n_entries, dtype=torch.bool)
            chosen[name][ids] = True
            rows += _rows(chosen[name], held_out, ranking=name, share=share, size=size)
        gains += [
            {"share": share, "size": size, "domain": domain.name, **asdict(gain(domain, chosen))}
            for domain in held_out.domains
        ]
    return {
        "environment": describe_environment(torch.device("cpu")),
        "n_must_keep": len(kept),
        "n_counted": {domain.name: int(domain.counts.sum()) for domain in counted.domains},
        "n_held_out": {domain.name: int(domain.counts.sum()) for domain in held_out.domains},
        "prior": mixture.provenance["prior"],
        "rows": rows,
        "gains": gains,
    }


def _rows(kept: Tensor, held_out: Evidence, **labels: Any) -> list[dict[str, Any]]:
    return [
        {**labels, "domain": name, "coverage": estimate.value, "low": estimate.low, "high": estimate.high}
        for name, estimate in coverage_by_domain(kept, held_out)
    ]


def gain(domain: DomainEvidence, chosen: dict[str, Tensor]) -> Estimate:
    """Coverage of the mixture less that of counts alone, compared prompt by prompt."""
    assert domain.positions is not None
    ids, prompts = domain.positions
    difference = chosen["mixture"][ids].double() - chosen["counts"][ids].double()
    return clustered_ratio(torch.bincount(prompts, weights=difference).tolist(), torch.bincount(prompts).tolist())


def markdown(result: dict[str, Any]) -> str:
    domains = list(result["n_held_out"])
    lines = ["| rows kept | ranking | " + " | ".join(domains) + " | mean |", "|---" * (len(domains) + 3) + "|"]
    cells: dict[tuple[float, int, str], list[float]] = {}
    for row in result["rows"]:
        cells.setdefault((row["share"], row["size"], row["ranking"]), []).append(row["coverage"])
    for (share, size, name), values in cells.items():
        numbers = [*values, sum(values) / len(values)]
        lines.append(f"| {size:,} ({share:.0%}) | {name} | " + " | ".join(f"{x:.4f}" for x in numbers) + " |")
    lines += ["", "Mixture less counts alone, in points, with 95 % intervals:", ""]
    lines += ["| rows kept | " + " | ".join(domains) + " |", "|---" * (len(domains) + 1) + "|"]
    for share in SHARES:
        own = [row for row in result["gains"] if row["share"] == share]
        shown = (f"{row['value'] * 100:+.1f} ± {(row['high'] - row['low']) * 50:.1f}" for row in own)
        lines.append(f"| {own[0]['size']:,} ({share:.0%}) | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="whose tokenizer counts")
    parser.add_argument("--chats", type=Path, required=True, help="JSON lines with messages")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON lines with prompts and domains")
    parser.add_argument("--n-rows", type=int, default=151_936, help="rows of the head that the shares are of")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    result = measure(args)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
