"""What draft heads keep of the untrimmed drafter's acceptance, for what they read a step: the table of docs/heads.md.

    outlex trace --target qwen15 --drafter qwen05 --prompts calibration.jsonl --max-new-tokens 112 -o calibration
    outlex trace --target qwen15 --drafter qwen05 --prompts held-out.jsonl --temperature 1 -o held-out-1
    outlex trace --target qwen15 --drafter qwen05 --prompts held-out.jsonl --temperature 0 -o held-out-0
    python benchmarks/heads/acceptance.py --calibration calibration --held-out held-out-1 --held-out held-out-0 \\
        -o acceptance.json

Heads are fitted and lists ranked on the calibration traces alone, and judged on the held-out ones: other prompts, each
set at the temperature that it was sampled at. Every number is a mean of β = Σ_v min(p_v, q̃_v) over all positions and
the target's whole vocabulary; shares of the untrimmed head's are compared position by position, with 95 % intervals
and prompts as clusters. Bytes are all that a step reads of weights, as a share of the drafter's head.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outlex.bench.environment import describe_environment
from outlex.calibration.head_files import load_heads, load_tokenizer_facts
from outlex.calibration.stats import TokenStats
from outlex.calibration.traces import TraceSet
from outlex.drafters.fitted import FittedHead, Shortlists
from outlex.forecast.candidates import candidates_for
from outlex.forecast.overlaps import Overlaps, overlap_table
from outlex.heads.linear import LinearHead
from outlex.heads.preview_fit import PreviewSpace
from outlex.heads.preview_plan import PreviewPlan, affordable_plans
from outlex.metrics import Estimate, clustered_ratio
from outlex.proposals.tli import Tli
from outlex.vocab.must_keep import MustKeep, must_keep
from outlex.vocab.ranking import rank_by_counts
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import TokenizerFacts

BUDGETS = (0.02, 0.03, 0.05)
N_STATIC = 1500
N_JOINING = 480  # rows that a request's tokens add, about


class Maker:
    """Makes the heads of the table from calibration traces."""

    def __init__(self, traces: Sequence[TraceSet], drafter_head: LinearHead, facts: TokenizerFacts, kept: MustKeep):
        self.header = traces[0].header
        self.full = drafter_head
        self.facts = facts
        self.kept = kept
        self.hidden = torch.cat([one.drafter_hidden for one in traces])
        self.counts = sum(torch.bincount(one.token_ids, minlength=facts.n_entries).double() for one in traces)

    def static(self, share: float) -> SubVocab:
        """By counts of what the target wrote, as VocabTrim ranks them; FR-Spec counts a text corpus."""
        return self.vocab(rank_by_counts(self.counts), round(share * self.full.n_rows))

    def random(self, share: float) -> SubVocab:
        order = torch.randperm(self.facts.n_entries, generator=torch.Generator().manual_seed(0))
        return self.vocab(order, round(share * self.full.n_rows))

    def vocab(self, order: torch.Tensor, size: int) -> SubVocab:
        return SubVocab.from_ranking(
            order,
            size=size,
            facts=self.facts,
            n_target=min(self.header.target.n_rows, self.full.n_rows),
            must_keep=self.kept,
            provenance={"source": "calibration traces"},
        )

    def in_context(self, n_static: int) -> FittedHead:
        return self.fitted("in-context", vocab=self.vocab(rank_by_counts(self.counts), n_static))

    def preview(self, space: PreviewSpace, plan: PreviewPlan, method: str = "preview") -> FittedHead:
        factor = space.factor(plan.tiers, fine_rank=plan.fine_rank)
        sizes = Shortlists(n_candidates=plan.n_candidates, n_exact=plan.n_exact)
        return self.fitted(method, preview=factor, shortlists=sizes)

    def fitted(self, method: str, **parts: Any) -> FittedHead:
        drafter = self.header.drafter
        parts.setdefault("shortlists", Shortlists())
        return FittedHead(
            method=method,
            base_name=drafter.name,
            base_source=drafter.source,
            base_n_rows=drafter.n_rows,
            head_fingerprint=drafter.head_fingerprint,
            tokenizer_fingerprint=self.header.tokenizer_fingerprint,
            **parts,
        )

    def plan(self, budget: float, *, n_joining: int = 0, most_exact: bool = False) -> PreviewPlan:
        """One of those that `outlex fit-head` would try: the highest rank, the most candidates, the most hot rows.

        Few rows are exact then; or as many as the budget buys, for laws with long tails.
        """
        plans = affordable_plans(self.full, max_bytes=int(budget * self.full.n_bytes), n_joining=n_joining)
        sizes = {max(plan.n_exact for plan in plans)} if most_exact else {256, 512}
        plans = [plan for plan in plans if plan.n_exact in sizes]
        return max(plans, key=lambda plan: (plan.tiers[0].rank, plan.n_candidates, plan.tiers[0].n_rows or 1 << 60))


def plain_svd(linear: LinearHead, hidden: torch.Tensor, *, rank: int) -> PreviewSpace:
    """The best factors of the matrix alone, blind to where hidden states are."""
    gram = torch.zeros(linear.weight.shape[1], linear.weight.shape[1], dtype=torch.float64)
    for block in linear.weight.split(16384):
        gram += (block.float().T @ block.float()).double()
    directions = torch.linalg.eigh(gram).eigenvectors.flip(-1)[:, :rank].float()
    whitened = PreviewSpace.fit(linear, hidden, rank=rank)
    return replace(whitened, mean=torch.zeros_like(whitened.mean), basis=directions.T, loadings=directions)


def share_kept(own: np.ndarray, whole: np.ndarray, prompts: np.ndarray, chosen: np.ndarray) -> Estimate:
    n = int(prompts.max()) + 1
    sums = [np.bincount(prompts[chosen], weights=values[chosen], minlength=n).tolist() for values in (own, whole)]
    return clustered_ratio(*sums)


def judge(
    heads: dict[str, SubVocab | FittedHead], held_out: TraceSet, target_head: LinearHead, drafter_head: LinearHead
) -> list[dict[str, Any]]:
    """One row a head and domain."""
    named = candidates_for(list(heads.values()), traces=held_out, target_head=target_head, drafter_head=drafter_head)
    temperature = 1.0 if held_out.temperature is None else held_out.temperature
    table = overlap_table(
        held_out,
        target_head=target_head,
        drafter_head=drafter_head,
        candidates=named,
        temperatures=[temperature],
        proposal=Tli(),
        tokens_per_pass=3,
        on_progress=lambda n_done, n: None,
    )
    cells: list[Overlaps] = [table.cells[i, temperature] for i in range(len(named))]
    prompts = held_out.prompt_index.numpy().astype(np.int64)
    domain_of_prompt = np.array([prompt.domain for prompt in held_out.prompts])
    rows = []
    for domain in (None, *held_out.domains):
        chosen = np.ones(len(prompts), dtype=bool) if domain is None else domain_of_prompt[prompts] == domain
        for name, cell in zip(("untrimmed", *heads), cells, strict=True):
            rows.append(
                {
                    "head": name,
                    "temperature": temperature,
                    "domain": domain,
                    "n_positions": int(chosen.sum()),
                    "n_prompts": len(set(prompts[chosen].tolist())),
                    "alpha": float(cell.beta[chosen].mean()),
                    "kept": asdict(share_kept(cell.beta, cells[0].beta, prompts, chosen)),
                    "head_bytes": cell.head_bytes / drafter_head.n_bytes,
                }
            )
    return rows


def table_heads(make: Maker) -> dict[str, SubVocab | FittedHead]:
    plans = {budget: make.plan(budget) for budget in BUDGETS}
    long = {budget: make.plan(budget, most_exact=True) for budget in BUDGETS[1:]}
    both = {budget: make.plan(budget, n_joining=N_JOINING) for budget in BUDGETS[1:]}
    rank = max(plan.rank for each in (plans, long, both) for plan in each.values())
    space = PreviewSpace.fit(make.full, make.hidden, rank=rank)
    svd = plain_svd(make.full, make.hidden, rank=plans[0.05].rank)
    heads: dict[str, SubVocab | FittedHead] = {
        "static list, 25 %": make.static(0.25),
        "static list, 10 %": make.static(0.10),
        "random list, 10 %": make.random(0.10),
        f"static list, {N_STATIC:,} rows": make.vocab(rank_by_counts(make.counts), N_STATIC),
        f"in-context, {N_STATIC:,} static rows": make.in_context(N_STATIC),
        "plain SVD, 5 %": make.preview(svd, plans[0.05]),
    }
    heads |= {f"preview, {budget:.0%}": make.preview(space, plan) for budget, plan in plans.items()}
    for budget, plan in long.items():
        heads[f"preview, {budget:.0%}, {plan.n_exact:,} exact rows"] = make.preview(space, plan)
    for budget, plan in both.items():
        heads[f"preview and in-context, {budget:.0%}"] = make.preview(space, plan, "both")
    return heads


def corpus_lists(make: Maker, counts: Path) -> dict[str, SubVocab | FittedHead]:
    """Static lists by counts of a text corpus, as FR-Spec ranks them."""
    order = rank_by_counts(TokenStats.load(counts).total())
    return {f"corpus list, {share:.0%}": make.vocab(order, round(share * make.full.n_rows)) for share in (0.25, 0.10)}


def curve_heads(make: Maker, sizes: Sequence[int]) -> dict[str, SubVocab | FittedHead]:
    """Previews fitted to so many positions, spread evenly over the calibration's."""
    plans = {budget: make.plan(budget) for budget in BUDGETS[1:]}
    rank = max(plan.rank for plan in plans.values())
    heads: dict[str, SubVocab | FittedHead] = {}
    for size in sizes:
        picked = torch.linspace(0, len(make.hidden) - 1, min(size, len(make.hidden))).long()
        space = PreviewSpace.fit(make.full, make.hidden[picked], rank=rank)
        for budget, plan in plans.items():
            heads[f"preview, {budget:.0%}, {len(picked)} positions"] = make.preview(space, plan)
    return heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, action="append", required=True)
    parser.add_argument("--held-out", type=Path, action="append", required=True)
    parser.add_argument("--curve", default="", help="calibration sizes with commas between, in place of the table")
    parser.add_argument(
        "--counts", type=Path, help="of a text corpus, by `outlex count`: its lists in place of the table"
    )
    parser.add_argument("--only", default="", help="calibrate on this domain alone; !DOMAIN leaves it out")
    parser.add_argument("--save", type=Path, help="write the fitted heads into this directory as well")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    calibration = [TraceSet.load(path) for path in args.calibration]
    if args.only:
        name, other = args.only.removeprefix("!"), args.only.startswith("!")
        calibration = [
            one.select(i for i, p in enumerate(one.prompts) if (p.domain == name) != other)
            for one in calibration
            if any((p.domain == name) != other for p in one.prompts)
        ]
    header = calibration[0].header
    facts = load_tokenizer_facts(header.drafter)
    kept = must_keep(facts, stop_ids=[i for i in header.stop_ids if i < facts.n_entries])
    target_head, drafter_head = load_heads(header)
    make = Maker(calibration, drafter_head, facts, kept)
    if args.counts is not None:
        heads = corpus_lists(make, args.counts)
    elif args.curve:
        heads = curve_heads(make, [int(size) for size in args.curve.split(",")])
    else:
        heads = table_heads(make)
    if args.only:
        heads = {name: head for name, head in heads.items() if "preview" in name}
    for name, head in heads.items():
        if args.save is not None and isinstance(head, FittedHead):
            head.save(args.save / name.replace("%", "pct").replace(",", "").replace(" ", "-"))
    rows = []
    for path in args.held_out:
        rows += judge(heads, TraceSet.load(path), target_head, drafter_head)
        print(markdown(rows), flush=True)
    result = {
        "environment": describe_environment(torch.device("cpu")),
        "target": header.target.name,
        "drafter": header.drafter.name,
        "calibration": {
            "n_positions": len(make.hidden),
            "n_prompts": sum(len(one.prompts) for one in calibration),
            "domains": sorted({name for one in calibration for name in one.domains}),
        },
        "heads": {name: head.describe() for name, head in heads.items() if isinstance(head, FittedHead)},
        "rows": rows,
    }
    args.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """All domains together: one line a head, one column a temperature."""
    rows = [row for row in rows if row["domain"] is None]
    temperatures = sorted({row["temperature"] for row in rows})
    lines = ["| head | bytes | " + " | ".join(f"T = {t:g}" for t in temperatures) + " |"]
    lines.append("|---" * (len(temperatures) + 2) + "|")
    for name in dict.fromkeys(row["head"] for row in rows):
        own = {row["temperature"]: row for row in rows if row["head"] == name}
        shown = []
        for t in temperatures:
            kept = own[t]["kept"]
            shown.append(f"{kept['value']:.2%} ± {(kept['high'] - kept['low']) / 2:.2%} ({own[t]['alpha']:.4f})")
        lines.append(f"| {name} | {next(iter(own.values()))['head_bytes']:.2%} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def by_domain(rows: Sequence[dict[str, Any]], *, heads: Sequence[str]) -> str:
    """Shares of the untrimmed head's acceptance at one temperature: one line a head, one column a domain."""
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    lines = ["| head | " + " | ".join(domain or "all" for domain in domains) + " |", "|---" * (len(domains) + 1) + "|"]
    for head in heads:
        kept = {row["domain"]: row["kept"] for row in rows if row["head"] == head}
        cells = (f"{kept[d]['value']:.1%} ± {(kept[d]['high'] - kept[d]['low']) / 2:.1%}" for d in domains)
        lines.append(f"| {head} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
