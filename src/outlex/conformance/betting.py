"""A sequential test by betting: an account that can only grow, on average, if the null hypothesis is wrong.

Before each draw a bet names a set of tokens A whose probability is at most u under the null hypothesis, and says that
its odds are r > 1 times as high. The account is multiplied by the likelihood ratio of the two,

    r / (1 − u + ru)  if the token is in A,      1 / (1 − u + ru)  if not,

whose expectation is at most 1 under the null hypothesis, whatever A, u and r were chosen from the past. So is that of a
mixture of many accounts, and by Ville's inequality

    P(the mixture ever reaches 1/α) ≤ α,

however often one looks and whenever one stops: the false-alarm rate of the whole procedure is α, many sets, many r and
all looks included. Betting that odds are r times as high at every position fits faults whose sets are probable here and
rare there, and loses next to nothing where A is next to impossible. See Shafer, "Testing by betting" (JRSS A, 2021);
Waudby-Smith and Ramdas, arXiv 2010.09686.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RATIOS", "Accounts", "Course", "detectable", "detectable_shares"]

# r: from a tenth more to what a single token of probability 1e-7 proves
RATIOS = (1.1, 1.25, 1.6, 2.5, 6.0, 30.0, 1e3, 1e6)

_POWER = 0.9
_SHARES = (0.5, 0.1, 0.01, 0.001)


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """How the accounts went, draw by draw; infinite from a draw on that was impossible.

    Attributes:
        log_wealth: log of the mixture after each draw, float64 [n].
        log_by_bet: log of each bet's own mixture over r after each draw, float64 [n, n_bets].
    """

    log_wealth: Tensor
    log_by_bet: Tensor


class Accounts:
    """A mixture, equally weighted, of one account for each bet and each r.

    Args:
        n_bets: how many sets are bet on at every draw.
    """

    def __init__(self, n_bets: int) -> None:
        self.log_accounts = torch.zeros(n_bets, len(RATIOS), dtype=torch.float64)

    @property
    def log_wealth(self) -> float:
        """Log of the mixture."""
        return float(_log_mean(self.log_accounts.flatten()))

    def settle(self, bounds: Tensor, inside: Tensor) -> Course:
        """Draws in order.

        Args:
            bounds: u of each draw and bet, float64 [n, n_bets]; 1 is no bet.
            inside: whether the token that was drawn is in the set, bool [n, n_bets].
        """
        u, inside = bounds.unsqueeze(-1), inside.unsqueeze(-1)
        gains = torch.where(u < 1, _log_ratios(u, inside), 0.0)
        gains = gains.masked_fill((u <= 0) & inside, math.inf)
        accounts = self.log_accounts + gains.cumsum(0)
        if len(bounds):
            self.log_accounts = accounts[-1]
        return Course(log_wealth=_log_mean(accounts.flatten(1)), log_by_bet=_log_mean(accounts))


def _log_ratios(u: Tensor, inside: Tensor) -> Tensor:
    """Log likelihood ratios of a draw: u, inside [..., 1] -> [..., number of r]."""
    ratios = torch.tensor(RATIOS, dtype=torch.float64)
    return torch.where(inside, ratios.log(), 0.0) - torch.log1p(u * (ratios - 1))


def _log_mean(logs: Tensor) -> Tensor:
    return torch.logsumexp(logs, -1) - math.log(logs.shape[-1])


def detectable(mass: float, *, odds: float, n_draws: int, n_bets: int, false_alarm: float, power: float) -> float:
    """The smallest probability of a set that the test finds, with this power, if it is `mass` under the reference.

    Exact for a set of the same mass at every position, looked at once, after `n_draws`: the test itself looks after
    every draw, which finds more. 1 if nothing would be found.

    Args:
        mass: p(A), in (0, 1).
        odds: ε of the null hypothesis.
        n_draws: tokens drawn.
        n_bets: bets in the mixture.
        false_alarm: α.
        power: probability of an alarm.
    """
    from scipy.stats import binom

    inside = mass * math.exp(odds)
    bound = inside / (inside + 1 - mass)
    u = torch.tensor([bound], dtype=torch.float64)
    won, lost = (_log_ratios(u, torch.tensor([hit])) for hit in (True, False))
    hits = torch.arange(n_draws + 1, dtype=torch.float64).unsqueeze(-1)
    logs = hits * won + (n_draws - hits) * lost
    enough = (_log_mean(logs) - math.log(n_bets) >= -math.log(false_alarm)).nonzero()
    if not len(enough):
        return 1.0
    needed = int(enough[0])  # every account grows with each hit
    low, high = mass, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if binom.sf(needed - 1, n_draws, middle) >= power else (middle, high)
    return high


def detectable_shares(*, n_draws: int, n_bets: int, odds: float, false_alarm: float) -> tuple[tuple[float, float], ...]:
    """For sets of some probabilities: with which one they are found, with power 0.9."""
    return tuple(
        (
            share,
            detectable(share, odds=odds, n_draws=n_draws, n_bets=n_bets, false_alarm=false_alarm, power=_POWER),
        )
        for share in _SHARES
    )
