"""Which sets of tokens the sequential test bets on: where faults of speculative decoding move probability to.

A set may depend on the reference law, on the text so far and on draws of earlier rounds; never on the draw it is bet
on. That is all the test needs to be valid, so sets can be added freely: each costs log 2 of the evidence at most when
their number doubles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from outlex.conformance.law import Laws

__all__ = ["Aim", "Draws", "Positions", "bets_on", "default_aims"]

Place = tuple[int, tuple[int, ...]]  # number of the prompt, tokens behind it


@dataclass(frozen=True, kw_only=True, eq=False)
class Positions:
    """Positions of the reference law that are looked at together.

    Attributes:
        places: of each: which prompt, and the tokens drawn behind it so far.
        last_ids: the token before each, int64 [n].
        laws: the law there.
        draft_probs: the drafter's own law [n, n_target], where the drafter is known.
    """

    places: Sequence[Place]
    last_ids: Tensor
    laws: Laws
    draft_probs: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Tokens that were drawn at some of the `Positions`: row of the position and token, int64 [n] each."""

    rows: Tensor
    token_ids: Tensor


class Aim(Protocol):
    """A rule that names a set of tokens at each position."""

    @property
    def name(self) -> str:
        """Completes "tokens that are …"."""

    @property
    def two_sided(self) -> bool:
        """Whether too few draws from the set are bet on as well."""

    def members(self, positions: Positions) -> Tensor:
        """The set, bool [n, n_target] or [1, n_target]."""

    def watch(self, positions: Positions, draws: Draws) -> None:
        """Take note of draws; `members` may follow them from the next round on."""

    def end_round(self) -> None:
        """The draws that were watched are the past now."""


class _Unmoved:
    """An aim that learns nothing from draws."""

    two_sided = True

    def watch(self, positions: Positions, draws: Draws) -> None:
        del positions, draws

    def end_round(self) -> None:
        pass


@dataclass(frozen=True)
class LessProbable(_Unmoved):
    """Tokens below a share of the most probable one's probability: wrong temperatures, flattened or sharpened laws."""

    share: float

    @property
    def name(self) -> str:
        return "not the most probable" if self.share == 1 else f"less than {self.share:g} times as probable as the best"

    def members(self, positions: Positions) -> Tensor:
        probs = positions.laws.probs
        return probs < self.share * probs.amax(-1, keepdim=True)


@dataclass(frozen=True)
class Atypical(_Unmoved):
    """Tokens whose log probability is below the mean of what is drawn, −entropy, by a margin in nats."""

    margin: float

    @property
    def name(self) -> str:
        by = f" by {self.margin:g} nats" if self.margin else ""
        return f"less probable than the geometric mean of draws{by}"

    def members(self, positions: Positions) -> Tensor:
        probs = positions.laws.probs
        entropy = torch.special.entr(probs).sum(-1, keepdim=True)
        return probs < torch.exp(-entropy - self.margin)


@dataclass(frozen=True)
class Rare(_Unmoved):
    """Tokens of next to no probability: garbage, rows of another position, ids of another map."""

    limit: float
    two_sided = False

    @property
    def name(self) -> str:
        return f"less probable than {self.limit:g}"

    def members(self, positions: Positions) -> Tensor:
        return positions.laws.probs < self.limit


@dataclass(frozen=True, eq=False)
class Listed(_Unmoved):
    """A fixed set, bool [n_target]."""

    name: str
    tokens: Tensor

    def members(self, positions: Positions) -> Tensor:
        return self.tokens.to(positions.laws.probs.device).unsqueeze(0)


class DrafterPrefers(_Unmoved):
    """Tokens with q > p: what a wrong acceptance or residual gives too often or too seldom."""

    name = "more probable for the drafter than for the target"

    def members(self, positions: Positions) -> Tensor:
        assert positions.draft_probs is not None  # default_aims takes this aim only where the drafter is known
        return positions.draft_probs > positions.laws.probs


class Repeated(_Unmoved):
    """The token before, once more: rows that are one position late."""

    name = "a repetition of the token before"
    two_sided = False

    def members(self, positions: Positions) -> Tensor:
        members = torch.zeros_like(positions.laws.probs, dtype=torch.bool)
        return members.scatter_(-1, positions.last_ids.unsqueeze(-1), True)


class MoreOftenAnywhere(_Unmoved):
    """Tokens that were drawn more often than expected so far, wherever that was."""

    name = "drawn more often than expected so far, at any position"
    two_sided = False

    def __init__(self, n_target: int) -> None:
        self._surplus = torch.zeros(n_target, dtype=torch.float64)
        self._news = torch.zeros(n_target, dtype=torch.float64)

    def members(self, positions: Positions) -> Tensor:
        return (self._surplus > 0).to(positions.laws.probs.device).unsqueeze(0)

    def watch(self, positions: Positions, draws: Draws) -> None:
        n_draws = torch.bincount(draws.rows, minlength=len(positions.places)).to(positions.laws.probs)
        self._news -= (n_draws @ positions.laws.probs).double().cpu()
        self._news += torch.bincount(draws.token_ids, minlength=len(self._news)).cpu()

    def end_round(self) -> None:
        self._surplus += self._news
        self._news.zero_()


@dataclass
class _Drawn:
    n_draws: int = 0
    counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))


class MoreOftenHere(_Unmoved):
    """Tokens that were drawn more often than expected so far after the very same text."""

    name = "drawn more often than expected so far after the same text"
    two_sided = False

    def __init__(self) -> None:
        self._past: dict[Place, _Drawn] = defaultdict(_Drawn)
        self._news: list[tuple[Place, int]] = []

    def members(self, positions: Positions) -> Tensor:
        probs = positions.laws.probs
        members = torch.zeros_like(probs, dtype=torch.bool)
        for row, place in enumerate(positions.places):
            past = self._past.get(place)
            if past is not None:
                ids = torch.tensor(list(past.counts), device=probs.device)
                counts = torch.tensor(list(past.counts.values()), device=probs.device)
                members[row, ids] = counts > past.n_draws * probs[row, ids]
        return members

    def watch(self, positions: Positions, draws: Draws) -> None:
        pairs = zip(draws.rows.tolist(), draws.token_ids.tolist(), strict=True)
        self._news += [(positions.places[row], token_id) for row, token_id in pairs]

    def end_round(self) -> None:
        for place, token_id in self._news:
            past = self._past[place]
            past.n_draws += 1
            past.counts[token_id] += 1
        self._news.clear()


def default_aims(n_target: int, *, draft_ids: Tensor | None, has_drafter: bool) -> list[Aim]:
    """The sets that every check bets on.

    Args:
        n_target: width of the target's head.
        draft_ids: tokens the drafter can propose, int64; None if it is not known, or all of them.
        has_drafter: whether `Positions.draft_probs` will be there.
    """
    ids = torch.arange(n_target)
    # two fixed halves of the vocabulary that have nothing to do with the order of ids: Fibonacci hashing
    hashed = (ids * 2654435769) % 2**32
    aims: list[Aim] = [LessProbable(share) for share in (1.0, 0.3, 0.03, 0.003)]
    aims += [Atypical(0.0), Atypical(1.0), Rare(1e-5), Rare(1e-7)]
    aims += [
        Listed("in the first quarter of the ids", ids < n_target / 4),
        Listed("in one half of the ids, by a hash", hashed < 2**31),
        Listed("in another half of the ids, by a hash", hashed % 2**31 < 2**30),
    ]
    aims += [Repeated(), MoreOftenAnywhere(n_target), MoreOftenHere()]
    if draft_ids is not None:
        outside = torch.ones(n_target, dtype=torch.bool)
        outside[draft_ids.cpu()] = False
        aims.append(Listed("outside the drafter's vocabulary", outside))
    if has_drafter:
        aims.append(DrafterPrefers())
    return aims


def bets_on(aims: Sequence[Aim]) -> list[tuple[int, bool]]:
    """Number of the set, and whether too many draws (True) or too few are bet on."""
    return [(i, over) for i, aim in enumerate(aims) for over in (True, False) if over or aim.two_sided]
