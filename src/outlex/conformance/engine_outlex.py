"""Our own loop as a black box."""

from __future__ import annotations

from collections.abc import Sequence

from outlex.decode.decoder import SpeculativeDecoder
from outlex.decode.generation import Generation
from outlex.decode.together import generate_together
from outlex.drafters.independent import IndependentDrafter
from outlex.sampling import SamplingParams

__all__ = ["OutlexEngine"]


class OutlexEngine:
    """A `SpeculativeDecoder`, with any drafter, head and proposal (protocols `Engine` and `CountsDrafts`).

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
        self.n_accepted = 0

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        seeds = range(seed, seed + n_samples)
        n_together = 1 if n_samples == 1 else self._batch_size
        outputs: list[tuple[int, ...]] = []
        for start in range(0, n_samples, n_together):
            batch = seeds[start : start + n_together]
            generations = self._generate(prompt_ids, batch, params=params, max_new_tokens=max_new_tokens)
            outputs += [generation.token_ids for generation in generations]
            self.n_accepted += sum(generation.n_accepted for generation in generations)
        return outputs

    def _generate(
        self, prompt_ids: Sequence[int], seeds: Sequence[int], *, params: SamplingParams, max_new_tokens: int
    ) -> list[Generation]:
        if len(seeds) == 1:
            return [
                self._decoder.generate(
                    list(prompt_ids), max_new_tokens=max_new_tokens, params=params, seed=seeds[0], ignore_stop_ids=True
                )
            ]
        return generate_together(
            self._decoder,
            [prompt_ids] * len(seeds),
            seeds=seeds,
            max_new_tokens=max_new_tokens,
            params=params,
            ignore_stop_ids=True,
        )
