"""The sequential test: the account of `betting.py` on the sets of `aims.py`, and what it found."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from outlex.conformance.aims import Aim, Draws, Positions, bets_on, default_aims
from outlex.conformance.betting import Accounts, detectable_shares
from outlex.conformance.draw_log import DrawLog, JudgedDraw, Moment
from outlex.conformance.law import Tolerance, laws_of
from outlex.conformance.reference import Reference, law_logits, penalized, prefixes_of
from outlex.conformance.result import Place, SampledResult
from outlex.errors import InputError
from outlex.sampling import SamplingParams, probabilities

__all__ = ["SequentialTest"]

_CHUNK = 64  # positions of a forward pass; at 150,000 tokens each copy of their laws is 39 MB

TokenIds = tuple[int, ...]


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
        self._log = DrawLog()
        self._moment: Moment | None = None
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
        course = self._accounts.settle(bounds, inside)
        evidence = course.log_wealth
        if self.flagged_at is None:
            over = (evidence >= -math.log(self.false_alarm)).nonzero()
            at = int(over[0] if len(over) else evidence.argmax())
            if self._moment is None or float(evidence[at]) > self._moment.log_evidence:
                self._moment = Moment(
                    n_draws=self.n_draws + at + 1, log_evidence=float(evidence[at]), log_by_bet=course.log_by_bet[at]
                )
            if len(over):
                self.flagged_at = self.n_samples + order[at][0] + 1
                self.n_draws_at_flag = self.n_draws + at + 1
                self.log_evidence = float(evidence.max())
            else:
                self.log_evidence = float(evidence[-1])
        self.n_samples += len(outputs)
        self.n_draws += len(order)
        draws = [JudgedDraw(outputs[i][0], n, outputs[i][1][n]) for i, n in order]
        self._log.add(draws, masses=masses, bounds=bounds, inside=inside)

    def result(self) -> SampledResult:
        """What is known by now.

        Raises:
            InputError: nothing has been judged yet.
        """
        if self._moment is None:
            raise InputError("No outputs have been judged yet", next_step="give them to `judge` first")
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
            strongest=self._log.strongest(self._aims, self._sides, self._moment),
            strangest=None if self.flagged_at is None else self._strangest(),
            detectable=detectable_shares(
                n_draws=self.n_draws, n_bets=self.n_bets, odds=self.tolerance.odds, false_alarm=self.false_alarm
            ),
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
