"""Several requests that share their forward passes: to measure acceptance quickly, not to serve.

Every request is decoded by its own `SpeculativeDecoder` loop, unchanged; only the forwards of the two models and of
static draft heads are gathered. On a CPU a pass over the weights takes about as long for twenty requests as for one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from outlex.decode.decoder import SpeculativeDecoder
from outlex.decode.generation import Generation
from outlex.decode.taking_turns import Turn, take_turns
from outlex.drafters.base import Drafter
from outlex.drafters.independent import IndependentDrafter
from outlex.errors import InputError
from outlex.heads.linear import StaticHead
from outlex.models.runner import TargetRunner
from outlex.models.shared_body import SharedBody
from outlex.models.target import Target, TargetOutput
from outlex.proposals.base import DraftScores
from outlex.sampling import SamplingParams

__all__ = ["generate_together"]


@torch.inference_mode()
def generate_together(
    decoder: SpeculativeDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    params: SamplingParams,
    ignore_stop_ids: bool = False,
    measure: bool = False,
) -> list[Generation]:
    """Decode several requests as `decoder.generate` would decode each, but for rounding.

    Args:
        decoder: with an independent drafter, or none.
        prompts: token ids.
        seeds: one a prompt; what is drawn for a prompt depends on its own only.
        max_new_tokens, params, ignore_stop_ids, measure: as in `SpeculativeDecoder.stream`. The seconds in the results
            include waiting for other requests and mean nothing.

    Raises:
        InputError: a feature-conditioned drafter.
        ModelError: a model whose layers do not attend to everything before a token.
    """
    target = _SharedTarget(decoder.target, len(prompts))
    drafter = _shared_drafter(decoder.drafter, len(prompts))

    def decode(turn: Turn, prompt_ids: Sequence[int], seed: int) -> Generation:
        own = copy.copy(decoder)
        own.target = _OneTarget(target, turn)
        own.drafter = None if drafter is None else drafter.of_one(decoder, turn)
        return own.generate(
            list(prompt_ids),
            max_new_tokens=max_new_tokens,
            params=params,
            seed=seed,
            ignore_stop_ids=ignore_stop_ids,
            measure=measure,
        )

    return take_turns(
        [partial(decode, prompt_ids=prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    )


def _shared_drafter(drafter: Drafter | None, n_requests: int) -> _SharedDrafter | None:
    if drafter is None:
        return None
    if not isinstance(drafter, IndependentDrafter):
        raise InputError(
            "Requests with this drafter cannot share forward passes",
            got=drafter.name,
            expected="an independent drafter: a smaller model",
            next_step="decode one request at a time (--batch-size 1)",
        )
    return _SharedDrafter(drafter, n_requests)


class _SharedTarget:
    """The target of all requests: gates for their passes."""

    def __init__(self, runner: Target, n_requests: int) -> None:
        if not isinstance(runner, TargetRunner):
            raise TypeError(f"{type(runner).__name__} is no TargetRunner")
        self.runner = runner
        self.body = SharedBody(runner.loaded, n_requests, rolls_back=True)

    def forward(self, calls: dict[int, tuple[Tensor, int]]) -> dict[int, Tensor]:
        """Tokens and how many logits -> those logits; the head is read once."""
        hidden = self.body.forward({row: ids for row, (ids, _) in calls.items()})
        wanted = {row: hidden[row][-n_logits:] for row, (_, n_logits) in calls.items()}
        return _split(self.runner.head.logits(torch.cat(list(wanted.values()))), wanted)


class _OneTarget:
    """One request's view of the target (protocol `Target`)."""

    def __init__(self, shared: _SharedTarget, turn: Turn) -> None:
        self.n_target = shared.runner.n_target
        self.max_length = shared.runner.max_length
        self.bytes_per_step = shared.runner.bytes_per_step
        self.device = shared.runner.device
        self._shared = shared
        self._turn = turn

    def reset(self) -> None:
        self.rollback(0)

    def rollback(self, length: int) -> None:
        self._shared.body.rollback(self._turn.number, length)

    def forward(self, ids: Tensor, *, n_logits: int, feature_layers: tuple[int, ...] = ()) -> TargetOutput:
        assert not feature_layers  # independent drafters read none
        return TargetOutput(logits=self._turn.call(self._shared.forward, (ids, n_logits)))


class _SharedDrafter:
    """The drafter of all requests: gates for its body, and for a head that is one matrix."""

    def __init__(self, drafter: IndependentDrafter, n_requests: int) -> None:
        self.drafter = drafter
        self.body = SharedBody(drafter.loaded, n_requests, rolls_back=True)

    def score(self, calls: dict[int, Tensor]) -> dict[int, DraftScores]:
        scores = self.drafter.head.score(torch.cat(list(calls.values())))
        logits = _split(scores.logits, calls)
        return {row: DraftScores(logits=logits[row], token_map=scores.token_map, hidden=calls[row]) for row in calls}

    def of_one(self, decoder: SpeculativeDecoder, turn: Turn) -> IndependentDrafter:
        """One request's view of it."""
        own = copy.copy(self.drafter)
        own.body = _OneBody(self, turn)
        if own.head.follows_request:
            own.head = decoder.new_head()
        elif isinstance(own.head, StaticHead):
            own.head = _OneHead(self, turn)  # its many rows are read once for all; a preview reads few
        return own


class _OneBody:
    """One request's view of the drafter's body (protocol `Body`)."""

    def __init__(self, shared: _SharedDrafter, turn: Turn) -> None:
        body = shared.drafter.body
        self.max_length, self.n_embeddings, self.bytes_per_step = (
            body.max_length,
            body.n_embeddings,
            body.bytes_per_step,
        )
        self.length = 0
        self._body = shared.body
        self._turn = turn

    def reset(self) -> None:
        self.rollback(0)

    def rollback(self, length: int) -> None:
        self._body.rollback(self._turn.number, length)
        self.length = length

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        hidden: Tensor = self._turn.call(self._body.forward, ids)
        self.length += len(ids)
        return hidden, None


class _OneHead:
    """One request's view of a head that is one matrix (protocol `DraftHead`)."""

    follows_request = False
    prompt_logits = 0

    def __init__(self, shared: _SharedDrafter, turn: Turn) -> None:
        self.name = shared.drafter.head.name
        self.bytes_per_step = shared.drafter.head.bytes_per_step
        self._shared = shared
        self._turn = turn

    def begin(self, prompt_ids: list[int]) -> None:
        del prompt_ids

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        del verified_ids, target_logits

    def score(self, hidden: Tensor) -> DraftScores:
        scores: DraftScores = self._turn.call(self._shared.score, hidden)
        return scores


def _split(rows: Tensor, like: dict[int, Tensor]) -> dict[int, Tensor]:
    """Rows of all requests -> each one's own, as many as it has in `like`."""
    return dict(zip(like, torch.split(rows, [len(own) for own in like.values()]), strict=True))
