"""The sequential test: the account of `betting.py` on the sets of `aims.py`, and what it found."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outlex.conformance.aims import Aim, Draws, Positions, bets_on, default_aims
from outlex.conformance.betting import Accounts, detectable_shares
from outlex.conformance.law import Tolerance, laws_of
from outlex.conformance.reference import Reference, law_logits, penalized, prefixes_of
from outlex.conformance.result import Bet, Place, PositionShare, SampledResult
from outlex.errors import InputError
from outlex.sampling import SamplingParams, probabilities

__all__ = ["SequentialTest"]

_CHUNK = 64  # positions of a forward pass; at 150,000 tokens each copy of their laws is 39 MB

TokenIds = tuple[int, ...]


@dataclass(eq=False)
class _Log:
    """Every draw that was judged: what was expected of it and what came."""

    positions: list[Tensor] = field(default_factory=list)
    masses: list[Tensor] = field(default_factory=list)
    bounds: list[Tensor] = field(default_factory=list)
    inside: list[Tensor] = field(default_factory=list)


class SequentialTest:
    """The account of `betting.py` on the sets of `aims.py`, round by round.

    Args:
        reference: the target.
        prompts: token ids; outputs name them by number.
        params: the law, temperature above 0.
        tolerance: what rounding may do.
        drafter: the drafter's own logits, if it is known.
        draft_ids: tokens that can be drafted, int64, if not all.
        false_alarm: α.
    """

    def __init__(
        self,
        reference: Reference,
        prompts: Sequence[Sequence[int]],
        *,
        params: SamplingParams,
        tolerance: Tolerance,
        drafter: Reference | None = None,
        draft_ids: Tensor | None = None,
        false_alarm: float = 0.01,
    ) -> None:
        if params.greedy or not 0 < false_alarm < 1:
            raise InputError(
                "Sampled tokens cannot be tested like this",
                got=f"temperature {params.temperature}, false_alarm {false_alarm}",
                expected="a temperature above 0 and a false-alarm rate between 0 and 1",
                next_step="greedy outputs are compared token by token: check_greedy",
            )
        self._reference = reference
        self._drafter = drafter
        self._prompts = prompts
        self._params = params
        self.tolerance = tolerance
        self.false_alarm = false_alarm
        aims: list[Aim] = default_aims(reference.n_target, draft_ids=draft_ids, has_drafter=drafter is not None)
        self._aims = aims
        self._sides = bets_on(aims)
        self._accounts = Accounts(self.n_bets)
        self._log = _Log()
        self._drawn: dict[tuple[int, TokenIds], Counter[int]] = defaultdict(Counter)
        self._p: dict[tuple[int, TokenIds, int], float] = {}
        self.n_samples = 0
        self.n_draws = 0
        self.flagged_at: int | None = None
        self.n_draws_at_flag: int | None = None
        self.log_evidence = 0.0

    @property
    def n_bets(self) -> int:
        """Bets at every draw."""
        return len(self._sides)

    def judge(self, outputs: Sequence[tuple[int, TokenIds]]) -> bool:
        """Judge a round of outputs, in their order; True if the evidence has reached 1/α by now.

        Args:
            outputs: number of the prompt, and the tokens that followed it.
        """
        order = {
            (i, n): at
            for at, (i, n) in enumerate((i, n) for i, (_, ids) in enumerate(outputs) for n in range(len(ids)))
        }
        masses = torch.zeros(len(order), len(self._sides), dtype=torch.float64)
        bounds = torch.ones_like(masses)
        inside = torch.zeros(len(order), len(self._sides), dtype=torch.bool)
        for number in sorted({number for number, _ in outputs}):
            own = [(i, ids) for i, (prompt, ids) in enumerate(outputs) if prompt == number]
            visits: dict[TokenIds, list[tuple[int, int]]] = defaultdict(list)  # text -> place in the order, token
            for i, ids in own:
                for n, token_id in enumerate(ids):
                    visits[ids[:n]].append((order[i, n], token_id))
            for prefixes in prefixes_of([ids for _, ids in own], chunk=_CHUNK):
                self._judge_positions(number, prefixes, visits, masses, bounds, inside)
        for aim in self._aims:
            aim.end_round()
        self._note(outputs, list(order), masses, bounds, inside)
        return self.flagged_at is not None

    def _judge_positions(
        self,
        number: int,
        prefixes: list[TokenIds],
        visits: dict[TokenIds, list[tuple[int, int]]],
        masses: Tensor,
        bounds: Tensor,
        inside: Tensor,
    ) -> None:
        positions = self._positions(number, prefixes)
        at, rows, tokens = (
            torch.tensor(column)
            for column in zip(
                *((at, row, token) for row, prefix in enumerate(prefixes) for at, token in visits[prefix]), strict=True
            )
        )
        device = positions.laws.probs.device
        draws = Draws(rows=rows.to(device), token_ids=tokens.to(device))
        for i, aim in enumerate(self._aims):
            members = aim.members(positions)
            hit = members.expand(len(prefixes), -1)[draws.rows, draws.token_ids].cpu()
            mass = positions.laws.mass(members)
            for column, (which, over) in enumerate(self._sides):
                if which == i:
                    bound = positions.laws.most(members if over else ~members)
                    bounds[at, column] = bound[draws.rows].cpu()
                    masses[at, column] = (mass if over else 1 - mass)[draws.rows].cpu()
                    inside[at, column] = hit if over else ~hit
            aim.watch(positions, draws)
        p = positions.laws.probs[draws.rows, draws.token_ids].tolist()
        for row, token_id, probability in zip(rows.tolist(), tokens.tolist(), p, strict=True):
            self._drawn[number, prefixes[row]][token_id] += 1
            self._p[number, prefixes[row], token_id] = probability

    def _positions(self, number: int, prefixes: list[TokenIds]) -> Positions:
        prompt = self._prompts[number]
        logits = law_logits(self._reference, prompt, prefixes, self._params)
        draft_probs = None
        if self._drafter is not None:
            scores = penalized(self._drafter.logits(prompt, prefixes), prompt, prefixes, self._params)
            draft_probs = probabilities(scores, self._params).to(logits.device)
        return Positions(
            places=[(number, prefix) for prefix in prefixes],
            last_ids=torch.tensor([prefix[-1] if prefix else prompt[-1] for prefix in prefixes], device=logits.device),
            laws=laws_of(logits, self._params, self.tolerance),
            draft_probs=draft_probs,
        )

    def _note(
        self,
        outputs: Sequence[tuple[int, TokenIds]],
        order: list[tuple[int, int]],
        masses: Tensor,
        bounds: Tensor,
        inside: Tensor,
    ) -> None:
        evidence = self._accounts.settle(bounds, inside)
        if self.flagged_at is None:
            over = (evidence >= -math.log(self.false_alarm)).nonzero()
            if len(over):
                first = int(over[0])
                self.flagged_at = self.n_samples + order[first][0] + 1
                self.n_draws_at_flag = self.n_draws + first + 1
                self.log_evidence = float(evidence.max())
            else:
                self.log_evidence = float(evidence[-1])
        self.n_samples += len(outputs)
        self.n_draws += len(order)
        self._log.positions.append(torch.tensor([n for _, n in order]))
        self._log.masses.append(masses)
        self._log.bounds.append(bounds)
        self._log.inside.append(inside)

    def result(self) -> SampledResult:
        """What is known by now."""
        return SampledResult(
            n_samples=self.n_samples,
            n_draws=self.n_draws,
            false_alarm=self.false_alarm,
            odds=self.tolerance.odds,
            edge=self.tolerance.edge,
            n_bets=self.n_bets,
            log10_evidence=self.log_evidence / math.log(10),
            flagged_at=self.flagged_at,
            n_draws_at_flag=self.n_draws_at_flag,
            strongest=self._strongest(),
            strangest=None if self.flagged_at is None else self._strangest(),
            detectable=detectable_shares(
                n_draws=self.n_draws, n_bets=self.n_bets, odds=self.tolerance.odds, false_alarm=self.false_alarm
            ),
        )

    def _strongest(self) -> Bet:
        by_bet = self._accounts.log_by_bet
        best = int(by_bet.argmax())
        if by_bet[best].isinf():  # several sets held a token that cannot be drawn: the narrowest of them says most
            mean_mass = torch.cat(self._log.masses).mean(0)
            best = int(mean_mass.masked_fill(~by_bet.isinf(), math.inf).argmin())
        aim, over = self._sides[best]
        positions = torch.cat(self._log.positions)
        masses, bounds, inside = (
            torch.cat([rows[:, best] for rows in column]).double()
            for column in (self._log.masses, self._log.bounds, self._log.inside)
        )
        if not over:  # told about the same set in both directions
            masses, inside, bounds = 1 - masses, 1 - inside, 1 - bounds
        shares = []
        for position in range(int(positions.max()) + 1):
            here = positions == position
            shares.append(
                PositionShare(
                    position=position,
                    n_draws=int(here.sum()),
                    expected=float(masses[here].mean()),
                    observed=float(inside[here].mean()),
                )
            )
        return Bet(
            tokens=self._aims[aim].name,
            direction="too often" if over else "too seldom",
            expected=float(masses.mean()),
            observed=float(inside.mean()),
            most=float(bounds.mean()),
            log10_evidence=float(by_bet[best]) / math.log(10),
            by_position=tuple(shares),
        )

    def _strangest(self) -> Place:
        from scipy.stats import binom

        found: list[tuple[float, Place]] = []
        for (number, prefix), counts in self._drawn.items():
            n_draws = sum(counts.values())
            for token_id, n_token in counts.items():
                p = self._p[number, prefix, token_id]
                tail = min(binom.sf(n_token - 1, n_draws, p), binom.cdf(n_token, n_draws, p))
                place = Place(prompt=number, prefix=prefix, token_id=token_id, p=p, n_draws=n_draws, n_token=n_token)
                found.append((float(tail), place))
        return min(found, key=lambda pair: (pair[0], pair[1].prompt, pair[1].prefix))[1]
