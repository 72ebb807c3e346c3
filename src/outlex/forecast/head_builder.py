"""Heads that a budget buys, fitted to traces: plans first, then the heads of a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from outlex.calibration.traces import TraceSet
from outlex.drafters.fitted import FittedHead, Shortlists
from outlex.errors import InputError
from outlex.heads.linear import LinearHead
from outlex.heads.preview_fit import PreviewSpace
from outlex.heads.preview_plan import PreviewPlan, affordable_plans
from outlex.selection.evidence import Evidence
from outlex.selection.ranking import Ranked, rank
from outlex.selection.sources import evidence_of_traces
from outlex.vocab.must_keep import MustKeep, must_keep
from outlex.vocab.sub_vocab import SubVocab

if TYPE_CHECKING:
    from outlex.forecast.fitting import FitSettings
    from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["Calibration", "HeadBuilder"]


class HeadBuilder:
    """Heads of one drafter for one method."""

    def __init__(
        self,
        target_head: LinearHead,
        drafter_head: LinearHead,
        *,
        facts: TokenizerFacts,
        stop_ids: Sequence[int],
        settings: FitSettings,
    ) -> None:
        self._target, self._drafter = target_head, drafter_head
        self._facts, self._settings = facts, settings
        self._kept = must_keep(facts, stop_ids=[i for i in stop_ids if i < facts.n_entries])
        self.row_bytes = drafter_head.n_bytes / drafter_head.n_rows

    def calibrated(self, traces: Sequence[TraceSet]) -> Calibration:
        """What heads are fitted to."""
        return Calibration(
            traces, target_head=self._target, drafter_head=self._drafter, facts=self._facts, kept=self._kept
        )

    def plans(self, n_joining: int) -> Sequence[PreviewPlan | int]:
        """Plans of a preview, or a number of static rows, besides so many rows of the request's tokens.

        Raises:
            InputError: the budget buys none.
        """
        max_bytes = int(self._settings.budget * self._drafter.n_bytes)
        if self._settings.method != "in-context":
            plans = affordable_plans(self._drafter, max_bytes=max_bytes, n_joining=n_joining)
            # of each pair of shortlist sizes the one with the widest first tier
            return [*{(plan.n_candidates, plan.n_exact): plan for plan in reversed(plans)}.values()]
        n_tokens = min(self._facts.n_entries, self._target.n_rows, self._drafter.n_rows)
        n_kept = sum(i < n_tokens for i in self._kept.ids)
        size = min(n_tokens, int(max_bytes / self.row_bytes) - n_joining)
        if size < max(1, n_kept):
            smallest = math.ceil((max(1, n_kept) + n_joining) / self._drafter.n_rows * 1e4) / 1e4
            raise InputError(
                "No in-context head of this drafter is so cheap",
                got=f"a budget of {self._settings.budget:.2%} of the head",
                expected=f"at least {smallest:.2%}: {n_kept} tokens that are always kept, and about {n_joining} of a"
                " request",
                next_step="give a larger --budget, or take --method preview",
            )
        return [size]

    def heads(self, fitted_to: Calibration, plans: Sequence[PreviewPlan | int]) -> list[FittedHead]:
        """One a plan; previews of all of them come out of one space."""
        needed = max((plan.rank for plan in plans if isinstance(plan, PreviewPlan)), default=0)
        return [self._head(fitted_to, plan, rank=needed) for plan in plans]

    def _head(self, fitted_to: Calibration, plan: PreviewPlan | int, *, rank: int) -> FittedHead:
        traces = fitted_to.traces
        drafter = traces[0].header.drafter
        sizes = Shortlists(capacity=self._settings.capacity, top_m=self._settings.top_m)
        preview, vocab = None, None
        if isinstance(plan, PreviewPlan):
            space = fitted_to.space(rank, shrinkage=self._settings.shrinkage)
            preview = space.factor(plan.tiers, fine_rank=plan.fine_rank)
            sizes = replace(sizes, n_candidates=plan.n_candidates, n_exact=plan.n_exact)
        else:
            vocab = fitted_to.static(plan)
        return FittedHead(
            method=self._settings.method,
            preview=preview,
            vocab=vocab,
            shortlists=sizes,
            base_name=drafter.name,
            base_source=drafter.source,
            base_n_rows=drafter.n_rows,
            head_fingerprint=drafter.head_fingerprint,
            tokenizer_fingerprint=self._facts.fingerprint,  # the drafter's; the target's may have more pieces
            provenance={
                "positions": sum(map(len, traces)),
                "prompts": sum(len(one.prompts) for one in traces),
                "domains": sorted({name for one in traces for name in one.domains}),
            },
        )


class Calibration:
    """What some traces say of a pair, worked out once however many heads are fitted to it."""

    def __init__(
        self,
        traces: Sequence[TraceSet],
        *,
        target_head: LinearHead,
        drafter_head: LinearHead,
        facts: TokenizerFacts,
        kept: MustKeep,
    ) -> None:
        self.traces = traces
        self._target, self._drafter = target_head, drafter_head
        self._facts, self._kept = facts, kept
        self._spaces: dict[tuple[int, float], PreviewSpace] = {}

    def space(self, rank: int, *, shrinkage: float) -> PreviewSpace:
        """Directions of the drafter's hidden states."""
        if (rank, shrinkage) not in self._spaces:
            hidden = torch.cat([one.drafter_hidden for one in self.traces])
            self._spaces[rank, shrinkage] = PreviewSpace.fit(self._drafter, hidden, rank=rank, shrinkage=shrinkage)
        return self._spaces[rank, shrinkage]

    def static(self, size: int) -> SubVocab:
        """Rows by the target's mean probability, must-keep tokens first."""
        return SubVocab.from_ranking(
            self._ranked.ids,
            size=size,
            facts=self._facts,
            n_target=min(self._target.n_rows, self._drafter.n_rows),
            must_keep=self._kept,
            provenance=self._ranked.provenance,
        )

    @cached_property
    def _ranked(self) -> Ranked:
        n = self._facts.n_entries
        domains = [part for one in self.traces for part in evidence_of_traces(one, self._target, n_entries=n)]
        evidence = Evidence(domains=tuple(domains), sources=({"source": "traces"},))
        return rank(evidence, facts=self._facts, must_keep=self._kept)
