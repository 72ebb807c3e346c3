"""Toy engines that hold one fault of speculative decoding each, and the reference that they are judged by.

Target and drafter are tables: laws over `N` tokens that depend on the last two. The drafter can propose half of the
tokens; its law is the target's with some noise, so about two thirds of its drafts are accepted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from proposal_builders import learned, sparse_kernel
from proposal_faults import (
    FaultyProposal,
    PatchedLaw,
    ShiftedTarget,
    filter_forgotten_in_the_residual,
    judged_by,
    judged_by_tli,
    not_renormalised,
    offsets_read_as_absolute,
    residual_of_the_drafted_token,
)
from torch import Tensor

from outlex.decode.block import BlockDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.proposals import DraftScores, Mixed, Proposal, ProposalLaw, Tli
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableHead, TableTarget
from outlex.vocab.token_map import TokenMap

N = 24
HOT = list(range(0, N, 2))
DRAFT_LEN = 3
PROMPTS = [[1, 2], [5, 9], [20, 3], [7, 7]]

Contexts = Callable[[tuple[int, ...]], Tensor]


@functools.cache
def _row(seed: int, context: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(hash((seed, context)) % 2**63)
    return torch.randn(N, dtype=torch.float64, generator=generator) * 1.5


def target_logits(context: tuple[int, ...]) -> Tensor:
    return _row(1, context[-2:])


def draft_logits(context: tuple[int, ...]) -> Tensor:
    """The trimmed head's rows."""
    return whole_draft_logits(context)[HOT]


def whole_draft_logits(context: tuple[int, ...]) -> Tensor:
    return target_logits(context) + 0.5 * _row(2, context[-2:])


@dataclass(frozen=True)
class TableReference:
    """Protocol `Reference`."""

    logits_of: Contexts
    n_target: int = N

    def logits(self, prompt_ids: Sequence[int], prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        return torch.stack([self.logits_of((*prompt_ids, *prefix)) for prefix in prefixes])


def reference() -> TableReference:
    return TableReference(target_logits)


class DrafterReference(TableReference):
    """The trimmed drafter's law over all tokens."""

    def __init__(self) -> None:
        super().__init__(_hot_only)


def _hot_only(context: tuple[int, ...]) -> Tensor:
    row = torch.full((N,), -torch.inf, dtype=torch.float64)
    row[HOT] = draft_logits(context)
    return row


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@dataclass
class ToyEngine:
    """Protocol `Engine`: the decoding loop of outlex over tables, with parts that may be faulty.

    Attributes:
        proposal: how drafts are drawn.
        target: what p is read from.
        patched: parts of the loop that are replaced while it runs.
        hidden_of: the drafter's scores.
        drafter: made anew for each engine.
    """

    proposal: Proposal = field(default_factory=Tli)
    target: TableTarget = field(default_factory=lambda: TableTarget(target_logits, n_target=N))
    patched: Callable[[], Any] = _nothing
    drafter_class: type[TableDrafter] = TableDrafter
    hot: Sequence[int] = tuple(HOT)
    changed: Callable[[SamplingParams], SamplingParams] = lambda params: params
    name: str = "toy"
    dtype: str = "float64"

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        token_map = TokenMap(torch.tensor(list(self.hot)), n_draft=len(self.hot), n_target=N)
        drafter = self.drafter_class(draft_logits, TableHead(token_map))
        outputs = []
        with self.patched():
            for own in range(seed, seed + n_samples):
                blocks = BlockDecoder(
                    target=self.target,
                    drafter=drafter,
                    proposal=self.proposal,
                    draft_len=DRAFT_LEN,
                    params=self.changed(params),
                    randomness=GeneratorRandomness(seeded_generator(own)),
                    prompt_ids=list(prompt_ids),
                    clock=Stopwatch(self.target.device, synchronize=False),
                    measure=False,
                )
                ids: list[int] = []
                while len(ids) < max_new_tokens:
                    ids += blocks.next_block(max_new_tokens - len(ids)).token_ids
                outputs.append(tuple(ids))
        return outputs


# --- faults of a proposal: drawn from one law, judged by another ------------------------------------------------


class _Stale:
    """Judges a position by the law of the position before: its dense row alone, or both."""

    def __init__(self, *, both: bool) -> None:
        self._both = both
        self._last: ProposalLaw | None = None

    def __call__(self, right: ProposalLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        old, self._last = self._last or right, right
        return PatchedLaw(right, prob_of=old.prob_of if self._both else None, dense=old.dense)


def _greedy_draft_judged_as_sampled(right: ProposalLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
    point = Tli().law(scores, replace(params, temperature=0.0))
    return PatchedLaw(point, prob_of=right.prob_of, dense=right.dense)


# --- faults of the loop -----------------------------------------------------------------------------------------


@contextmanager
def _recovered_from_p() -> Iterator[None]:
    with mock.patch("outlex.verify.residual", lambda p, q: p):
        yield


@contextmanager
def _every_draft_accepted() -> Iterator[None]:
    with mock.patch("outlex.verify.acceptance_probs", lambda p, q: torch.ones_like(p)):
        yield


class _StaleTarget(TableTarget):
    """Forgets to roll back the last rejected draft: it stays in the cache, in the place of the token before."""

    def rollback(self, length: int) -> None:
        ids = self._context.ids
        stale = ids[-1] if len(ids) > length > 0 else None
        super().rollback(length)
        if stale is not None:
            ids[length - 1] = stale


class _StaleDrafter(TableDrafter):
    """The drafter's own cache keeps rejected drafts: its drafts are worse, the law is the target's."""

    def advance(self, verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
        return self._hidden(verified_ids)


_HOT_TO_OFFSETS = [target - row for row, target in enumerate(HOT)]  # 0, 1, 2 … for every second token

_MIXED = Mixed(inner=sparse_kernel(HOT, N), weights=((0.3,),))
_OTHER_LAMBDA = Mixed(inner=sparse_kernel(HOT, N), weights=((0.8,),))

# Faults that change the law. The parameters are those that the fault needs to show.
FAULTS: dict[str, tuple[Callable[[], ToyEngine], SamplingParams]] = {
    "residual from the drafted token only": (
        lambda: ToyEngine(FaultyProposal(Tli(), residual_of_the_drafted_token)),
        SamplingParams(),
    ),
    "q' in place of q̃": (lambda: ToyEngine(FaultyProposal(learned(HOT, N), judged_by_tli)), SamplingParams()),
    "renormalisation missing": (lambda: ToyEngine(FaultyProposal(Tli(), not_renormalised(0.6))), SamplingParams()),
    "stale draft row in the residual": (
        lambda: ToyEngine(FaultyProposal(Tli(), _Stale(both=False))),
        SamplingParams(),
    ),
    "draft row off by one position": (lambda: ToyEngine(FaultyProposal(Tli(), _Stale(both=True))), SamplingParams()),
    "target row off by one position": (
        lambda: ToyEngine(target=ShiftedTarget(target_logits, n_target=N)),
        SamplingParams(),
    ),
    "stale token in the target's cache": (
        lambda: ToyEngine(target=_StaleTarget(target_logits, n_target=N)),
        SamplingParams(),
    ),
    "offsets read as absolute ids": (
        lambda: ToyEngine(FaultyProposal(Tli(), offsets_read_as_absolute)),
        SamplingParams(),
    ),
    "filter on p, not in the residual": (
        lambda: ToyEngine(patched=filter_forgotten_in_the_residual),
        SamplingParams(top_k=6),
    ),
    "λ differs between drawing and accepting": (
        lambda: ToyEngine(FaultyProposal(_MIXED, judged_by(_OTHER_LAMBDA))),
        SamplingParams(),
    ),
    "recovered token drawn from p": (lambda: ToyEngine(patched=_recovered_from_p), SamplingParams()),
    "greedy draft judged as a sampled one": (
        lambda: ToyEngine(FaultyProposal(Tli(), _greedy_draft_judged_as_sampled)),
        SamplingParams(),
    ),
    "every draft accepted": (lambda: ToyEngine(patched=_every_draft_accepted), SamplingParams()),
    "temperature 0.9 for 1": (
        lambda: ToyEngine(changed=lambda params: replace(params, temperature=0.9)),
        SamplingParams(),
    ),
}

# Faults that keep the law: drafts get worse, and no test of the output can or should find them.
HARMLESS: dict[str, Callable[[], ToyEngine]] = {
    "stale token in the drafter's cache": lambda: ToyEngine(drafter_class=_StaleDrafter),
    "offsets read as ids wherever the map is used": lambda: ToyEngine(hot=_HOT_TO_OFFSETS),
}
