"""Every draw that was judged, and which bet was strongest when the evidence was there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outlex.conformance.aims import Aim
from outlex.conformance.result import Bet, PositionShare

__all__ = ["DrawLog", "JudgedDraw", "Moment"]


@dataclass(frozen=True)
class JudgedDraw:
    """A token of an output: number of the prompt, position in the output, token id."""

    prompt: int
    position: int
    token_id: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """The draw after which the evidence is reported.

    Attributes:
        n_draws: draws up to this one, which is among them.
        log_evidence: log of the whole account after it.
        log_by_bet: log of each bet's own account after it [n_bets].
    """

    n_draws: int
    log_evidence: float
    log_by_bet: Tensor


@dataclass(eq=False)
class DrawLog:
    """Draws in their order, and what each bet said of them.

    Attributes:
        draws: all of them.
        masses: a round each: p of the sets, float64 [n, n_bets].
        bounds: the largest probability that rounding explains, float64 [n, n_bets].
        inside: whether the token was in the set, bool [n, n_bets].
    """

    draws: list[JudgedDraw] = field(default_factory=list)
    masses: list[Tensor] = field(default_factory=list)
    bounds: list[Tensor] = field(default_factory=list)
    inside: list[Tensor] = field(default_factory=list)

    def add(self, draws: Sequence[JudgedDraw], *, masses: Tensor, bounds: Tensor, inside: Tensor) -> None:
        """Take a round in."""
        self.draws += draws
        self.masses.append(masses)
        self.bounds.append(bounds)
        self.inside.append(inside)

    def strongest(self, aims: Sequence[Aim], sides: Sequence[tuple[int, bool]], moment: Moment) -> Bet:
        """The bet that had won most by then, on the draws that it won it with.

        Later draws are left out: they can have emptied its account, or filled another one.

        Args:
            aims, sides: the bets, see `bets_on`.
            moment: when.
        """
        masses, bounds, inside = (
            torch.cat(rounds)[: moment.n_draws] for rounds in (self.masses, self.bounds, self.inside)
        )
        own = moment.log_by_bet
        if bool(own.isposinf().any()):
            # several sets held a token that cannot be drawn: the narrowest of them says most
            best = int(masses.mean(0).masked_fill(~own.isposinf(), math.inf).argmin())
        else:
            # an account that nothing was ever staked from has lost nothing either
            staked = ((bounds < 1) & ((bounds > 0) | inside)).any(0)
            best = int(own.masked_fill(~staked, -math.inf).argmax())
        aim, over = sides[best]
        expected, most, observed = (column[:, best].double() for column in (masses, bounds, inside))
        if not over:  # told about the same set in both directions
            expected, most, observed = 1 - expected, 1 - most, 1 - observed
        draws = self.draws[: moment.n_draws]
        positions = torch.tensor([draw.position for draw in draws])
        return Bet(
            tokens=aims[aim].name,
            direction="too often" if over else "too seldom",
            n_draws=moment.n_draws,
            prompt=draws[-1].prompt,
            position=draws[-1].position,
            token_id=draws[-1].token_id,
            expected=float(expected.mean()),
            observed=float(observed.mean()),
            most=float(most.mean()),
            log10_evidence=float(own[best]) / math.log(10),
            by_position=tuple(
                PositionShare(
                    position=position,
                    n_draws=int(here.sum()),
                    expected=float(expected[here].mean()),
                    observed=float(observed[here].mean()),
                )
                for position, here in ((p, positions == p) for p in sorted({draw.position for draw in draws}))
            ),
        )
