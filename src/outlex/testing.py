"""Public test doubles: tiny models whose laws are tables, and a proof of losslessness by enumeration.

`enumerate_outcomes` replaces the random numbers: it runs a program once for every way its draws can fall and returns
each outcome with its exact probability. `emitted_law` does that with the decoding loop itself, so what is compared to
the target is what the code that serves would emit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from outlex.decode.block import BlockDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.drafters.base import Drafter
from outlex.heads.base import DraftHead
from outlex.models.target import Target, TargetOutput
from outlex.proposals.base import DraftScores, Proposal
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams, penalize_repetition, probabilities
from outlex.vocab.token_map import TokenMap

__all__ = [
    "TableDrafter",
    "TableHead",
    "TableTarget",
    "assert_lossless",
    "emitted_law",
    "enumerate_outcomes",
    "target_law",
]

T = TypeVar("T")


class _Replay:
    """Follows a list of outcomes, then takes the first possible one; notes the alternatives at every draw."""

    def __init__(self, path: list[int]) -> None:
        self.path = path
        self.weights: list[list[float]] = []  # exact probability of every outcome of every draw
        self._n_drawn = 0

    def choose(self, probs: Tensor) -> Tensor:
        rows = []
        for row in probs.double().tolist():
            mass = sum(row)
            rows.append(self._next([p / mass for p in row]))
        return torch.tensor(rows, dtype=torch.int64, device=probs.device)

    def count_accepted(self, probs: Tensor) -> Tensor:
        weights, alive = [], 1.0
        for p in probs.double().tolist():
            weights.append(alive * (1 - p))
            alive *= p
        return torch.tensor(self._next([*weights, alive]), device=probs.device)

    def _next(self, weights: list[float]) -> int:
        at = self._n_drawn
        self._n_drawn += 1
        self.weights.append(weights)
        if at == len(self.path):
            self.path.append(next(i for i, w in enumerate(weights) if w > 0))
        return self.path[at]

    def probability(self) -> float:
        total = 1.0
        for choice, weights in zip(self.path, self.weights, strict=True):
            total *= weights[choice]
        return total


def enumerate_outcomes(program: Callable[[Randomness], T]) -> list[tuple[T, float]]:
    """Run a program once for every way its draws can fall.

    Args:
        program: deterministic apart from the `Randomness` it is given.

    Returns:
        Every outcome with its exact probability; they sum to 1 up to float64 rounding.
    """
    outcomes: list[tuple[T, float]] = []
    path: list[int] | None = []
    while path is not None:
        replay = _Replay(path)
        outcome = program(replay)
        outcomes.append((outcome, replay.probability()))
        path = _next_path(replay)
    return outcomes


def _next_path(replay: _Replay) -> list[int] | None:
    for at in range(len(replay.path) - 1, -1, -1):
        weights = replay.weights[at]
        for other in range(replay.path[at] + 1, len(weights)):
            if weights[other] > 0:
                return [*replay.path[:at], other]
    return None


class _Context:
    """A token list with rollback: the cache of a table model."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def append(self, ids: Tensor) -> list[tuple[int, ...]]:
        """The context after each of the new tokens."""
        contexts = []
        for token_id in ids.tolist():
            self.ids.append(token_id)
            contexts.append(tuple(self.ids))
        return contexts

    def rollback(self, length: int) -> None:
        if not 0 <= length <= len(self.ids):
            raise AssertionError(f"rollback to {length} of {len(self.ids)} tokens")
        del self.ids[length:]


class TableTarget:
    """A target whose logits are a function of the whole context (protocol `Target`).

    Args:
        logits_of: context -> logits [n_target], float64 for exact proofs.
        n_target: width.
        feature_of: context -> features [d], for feature-conditioned drafters.
    """

    bytes_per_step = 0
    max_length = 1_000_000
    device = torch.device("cpu")

    def __init__(
        self,
        logits_of: Callable[[tuple[int, ...]], Tensor],
        *,
        n_target: int,
        feature_of: Callable[[tuple[int, ...]], Tensor] | None = None,
    ) -> None:
        self.logits_of = logits_of
        self.n_target = n_target
        self._feature_of = feature_of
        self._context = _Context()

    def reset(self) -> None:
        self._context = _Context()

    def rollback(self, length: int) -> None:
        self._context.rollback(length)

    def forward(self, ids: Tensor, *, n_logits: int, feature_layers: tuple[int, ...] = ()) -> TargetOutput:
        contexts = self._context.append(ids)
        features = None
        if feature_layers and self._feature_of is not None:
            features = torch.stack([self._feature_of(context) for context in contexts])
        return TargetOutput(
            logits=torch.stack([self.logits_of(context) for context in contexts[-n_logits:]]), features=features
        )


class TableHead:
    """A head that hands hidden states on as logits, through a fixed map (protocol `DraftHead`)."""

    name = "table"
    bytes_per_step = 0
    follows_request = False
    prompt_logits = 0

    def __init__(self, token_map: TokenMap) -> None:
        self.token_map = token_map

    def begin(self, prompt_ids: list[int]) -> None:
        del prompt_ids

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        del verified_ids, target_logits

    def score(self, hidden: Tensor) -> DraftScores:
        return DraftScores(logits=hidden, token_map=self.token_map, hidden=hidden)


class TableDrafter:
    """An independent drafter whose hidden states are a function of the whole context (protocol `Drafter`).

    Args:
        hidden_of: context -> hidden state [d] that the head scores.
        head: its draft head.
    """

    name = "table"
    bytes_per_step = 0
    max_length = 1_000_000
    feature_layers: tuple[int, ...] = ()

    def __init__(self, hidden_of: Callable[[tuple[int, ...]], Tensor], head: DraftHead) -> None:
        self.head = head
        self._hidden_of = hidden_of
        self._context = _Context()
        self._n_verified = 0

    def begin(self) -> None:
        self._context = _Context()
        self._n_verified = 0

    def advance(self, verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
        del features
        n_kept = min(n_accepted, len(self._context.ids) - self._n_verified)
        self._context.rollback(self._n_verified + n_kept)
        self._n_verified += verified_ids.shape[0]
        return self._hidden(verified_ids[n_kept:])

    def step(self, draft_id: Tensor) -> Tensor:
        return self._hidden(draft_id)

    def _hidden(self, ids: Tensor) -> Tensor:
        return self._hidden_of(self._context.append(ids)[-1]).unsqueeze(0)


def emitted_law(
    *,
    target: Target,
    drafter: Drafter,
    proposal: Proposal,
    params: SamplingParams,
    prompt_ids: list[int],
    draft_len: int,
    n_blocks: int = 1,
) -> dict[tuple[int, ...], float]:
    """The exact law of what the decoding loop emits in its first blocks, by enumeration.

    Returns:
        Emitted tokens (of different lengths: each block emits 1 to γ + 1) -> probability.
    """

    def program(randomness: Randomness) -> tuple[int, ...]:
        blocks = BlockDecoder(
            target=target,
            drafter=drafter,
            proposal=proposal,
            draft_len=draft_len,
            params=params,
            randomness=randomness,
            prompt_ids=prompt_ids,
            clock=Stopwatch(target.device, synchronize=False),
            measure=False,
        )
        return tuple(i for _ in range(n_blocks) for i in blocks.next_block(draft_len + 1).token_ids)

    law: dict[tuple[int, ...], float] = {}
    for tokens, probability in enumerate_outcomes(program):
        law[tokens] = law.get(tokens, 0.0) + probability
    return law


def target_law(
    target: TableTarget,
    params: SamplingParams,
    prompt_ids: list[int],
    n_tokens: int,
    *,
    start: dict[tuple[int, ...], float] | None = None,
) -> dict[tuple[int, ...], float]:
    """The law of `n_tokens` tokens under the target alone, straight from the definition.

    Args:
        start: a law over shorter outputs; each of them is continued by the target. Nothing yet by default.
    """

    @cache
    def next_probs(tokens: tuple[int, ...]) -> list[float]:
        context = (*prompt_ids, *tokens)
        seen = torch.zeros(target.n_target, dtype=torch.bool)
        seen[list(context)] = True
        logits = penalize_repetition(target.logits_of(context).unsqueeze(0), seen, params.repetition_penalty)
        row: list[float] = probabilities(logits, params)[0].tolist()
        return row

    law: dict[tuple[int, ...], float] = {}
    waiting = [({(): 1.0} if start is None else start)]
    while waiting:
        longer: dict[tuple[int, ...], float] = {}
        for tokens, probability in waiting.pop().items():
            if len(tokens) == n_tokens:
                law[tokens] = law.get(tokens, 0.0) + probability
                continue
            for token_id, p in enumerate(next_probs(tokens)):
                if p > 0:
                    more = (*tokens, token_id)
                    longer[more] = longer.get(more, 0.0) + probability * p
        if longer:
            waiting.append(longer)
    return law


def assert_lossless(
    *,
    target: TableTarget,
    drafter: Drafter,
    proposal: Proposal,
    params: SamplingParams,
    prompt_ids: list[int],
    draft_len: int,
    n_blocks: int = 1,
    tolerance: float = 1e-12,
) -> None:
    """Raise AssertionError unless what the decoding loop emits follows the target's law.

    The blocks' output, of different lengths, is continued by the target to a common length, and the joint law of
    all tokens is compared. Exact enumeration in float64: `tolerance` covers rounding only. The number of paths is about
    (n_draft^γ · (γ + 1) · n_target)^n_blocks at a millisecond each; keep it below a thousand.
    """
    n_tokens = n_blocks * (draft_len + 1)
    emitted = emitted_law(
        target=target,
        drafter=drafter,
        proposal=proposal,
        params=params,
        prompt_ids=prompt_ids,
        draft_len=draft_len,
        n_blocks=n_blocks,
    )
    continued = target_law(target, params, prompt_ids, n_tokens, start=emitted)
    wanted = target_law(target, params, prompt_ids, n_tokens)
    for tokens in sorted(continued.keys() | wanted.keys()):
        got, expected = continued.get(tokens, 0.0), wanted.get(tokens, 0.0)
        if not abs(got - expected) <= tolerance:
            raise AssertionError(f"P{tokens} = {got!r}, the target's is {expected!r} (off by {got - expected:.3e})")
