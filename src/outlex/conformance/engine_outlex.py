"""Our own loop as a black box."""

from __future__ import annotations

from collections.abc import Sequence

from outlex.decode.decoder import SpeculativeDecoder
from outlex.decode.together import generate_together
from outlex.drafters.independent import IndependentDrafter
from outlex.sampling import SamplingParams

__all__ = ["OutlexEngine"]


class OutlexEngine:
    """A `SpeculativeDecoder`, with any drafter, head and proposal (protocol `Engine`).

    Args:
        decoder: ready to decode.
        batch_size: outputs that share forward passes; 1 decodes them one after the other, as a user does.
    """

    def __init__(self, decoder: SpeculativeDecoder, *, batch_size: int = 32) -> None:
        self._decoder = decoder
        drafter = decoder.drafter
        shares = drafter is None or isinstance(drafter, IndependentDrafter)
        self._batch_size = batch_size if shares else 1
        drafted = "no drafter" if drafter is None else f"{drafter.name}, {drafter.head.name} head"
        self.name = f"outlex: {decoder.loaded.name}, {drafted}, {decoder.proposal.name}"
        self.dtype = str(decoder.loaded.dtype).removeprefix("torch.")

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        seeds = range(seed, seed + n_samples)
        if self._batch_size == 1 or n_samples == 1:
            return [
                self._decoder.generate(
                    list(prompt_ids), max_new_tokens=max_new_tokens, params=params, seed=own, ignore_stop_ids=True
                ).token_ids
                for own in seeds
            ]
        outputs: list[tuple[int, ...]] = []
        for start in range(0, n_samples, self._batch_size):
            batch = seeds[start : start + self._batch_size]
            generations = generate_together(
                self._decoder,
                [prompt_ids] * len(batch),
                seeds=batch,
                max_new_tokens=max_new_tokens,
                params=params,
                ignore_stop_ids=True,
            )
            outputs += [generation.token_ids for generation in generations]
        return outputs
