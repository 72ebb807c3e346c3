"""What a conformance check found, as values that print and become JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Bet", "Disagreement", "GreedyResult", "Place", "PositionShare", "SampledResult", "Verification"]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A greedy token that is not the reference's.

    Attributes:
        prompt: number of the prompt, from 0.
        position: of the token in the output, from 0.
        got, expected: token ids: the engine's, and the reference's after the same text.
        gap: by how much the reference's logit of `expected` exceeds that of `got`.
        bound: the largest gap that rounding explains.
    """

    prompt: int
    position: int
    got: int
    expected: int
    gap: float
    bound: float

    @property
    def is_tie(self) -> bool:
        """Whether rounding explains it."""
        return self.gap <= self.bound


@dataclass(frozen=True, kw_only=True)
class GreedyResult:
    """Greedy outputs beside the reference's.

    Attributes:
        n_prompts, n_tokens: what was compared.
        n_equal: outputs that are the reference's token for token.
        disagreements: every token that is not the reference's choice after the engine's own text.
    """

    n_prompts: int
    n_tokens: int
    n_equal: int
    disagreements: tuple[Disagreement, ...]

    @property
    def departures(self) -> tuple[Disagreement, ...]:
        """Those that rounding does not explain."""
        return tuple(one for one in self.disagreements if not one.is_tie)


@dataclass(frozen=True, kw_only=True)
class PositionShare:
    """How often a set was drawn from at one position of the outputs; fractions of `n_draws`."""

    position: int
    n_draws: int
    expected: float
    observed: float


@dataclass(frozen=True, kw_only=True)
class Bet:
    """A set of tokens that was drawn from too often or too seldom, up to a draw: the last one that counts here.

    Attributes:
        tokens: which tokens, in words.
        direction: "too often" or "too seldom".
        n_draws: tokens up to that draw.
        prompt, position, token_id: that draw: number of the prompt, position in the output, from 0, and the token.
        expected, observed: share of the draws, under the reference law and seen.
        most: the share that rounding explains.
        log10_evidence: of this bet alone.
        by_position: the same shares, position by position.
    """

    tokens: str
    direction: str
    n_draws: int
    prompt: int
    position: int
    token_id: int
    expected: float
    observed: float
    most: float
    log10_evidence: float
    by_position: tuple[PositionShare, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The text after which draws look strangest. It was looked for among all texts: it illustrates, it proves nothing.

    Attributes:
        prompt: number of the prompt, from 0.
        prefix: tokens behind it.
        token_id: the token.
        p: its probability.
        n_draws, n_token: draws after this text, and how many of them were this token.
    """

    prompt: int
    prefix: tuple[int, ...]
    token_id: int
    p: float
    n_draws: int
    n_token: int


@dataclass(frozen=True, kw_only=True)
class SampledResult:
    """The sequential test of sampled tokens.

    Attributes:
        n_samples, n_draws: outputs and tokens that were judged.
        false_alarm: α, of the whole procedure.
        odds, edge: the tolerance, see `law.Tolerance`.
        n_bets: bets at every draw.
        log10_evidence: log10 of the account at the end, or at its height if it reached 1/α; infinite after a token that
            cannot have been drawn.
        flagged_at: number of the output, from 1, at which the account reached 1/α; None if it did not.
        n_draws_at_flag: tokens up to there.
        strongest: the bet that had won most when the account reached 1/α, or was highest if it never did.
        strangest: where it shows, if there is a departure.
        detectable: (a, b) pairs: a set of probability a is found with power 0.9 if it is drawn with b.
    """

    n_samples: int
    n_draws: int
    false_alarm: float
    odds: float
    edge: float
    n_bets: int
    log10_evidence: float
    flagged_at: int | None
    n_draws_at_flag: int | None
    strongest: Bet
    strangest: Place | None
    detectable: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The verdict on an engine.

    Attributes:
        engine, target: what was judged by what.
        dtype: in which the engine computes.
        params: the law that was asked for, JSON values.
        greedy, sampled: the parts; None if not run.
        n_accepted: draft tokens that the target accepted meanwhile; None if the engine does not tell. With 0 of them
            nothing was learnt about speculation.
        engine_s, reference_s: where the time went.
    """

    engine: str
    target: str
    dtype: str
    params: dict[str, Any]
    greedy: GreedyResult | None
    sampled: SampledResult | None
    n_accepted: int | None
    engine_s: float
    reference_s: float

    @property
    def lossless_so_far(self) -> bool:
        """Whether nothing was found that rounding does not explain."""
        greedy = self.greedy is None or not self.greedy.departures
        return greedy and (self.sampled is None or self.sampled.flagged_at is None)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        greedy = None
        if self.greedy is not None:
            greedy = asdict(self.greedy)
            greedy["disagreements"] = [{**asdict(one), "is_tie": one.is_tie} for one in self.greedy.disagreements]
        return {**asdict(self), "greedy": greedy, "lossless_so_far": self.lossless_so_far}
