"""Greedy outputs token by token: equal, a tie that rounding explains, or a departure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from outlex.conformance.engines import Engine, checked
from outlex.conformance.reference import Reference, law_logits
from outlex.conformance.result import Disagreement, GreedyResult
from outlex.errors import InputError
from outlex.sampling import SamplingParams

__all__ = ["check_greedy", "tie_bounds"]

# Half the distance of neighbouring numbers at 1, by dtype, times how often it adds up on the way to a logit; measured,
# see docs/conformance.md.
_ROUNDING = {"float64": 64 * 2.0**-53, "float32": 64 * 2.0**-24, "float16": 16 * 2.0**-11, "bfloat16": 16 * 2.0**-8}


def tie_bounds(logits: Tensor, dtype: str) -> Tensor:
    """The largest gap between two logits that an engine computing in `dtype` may see the other way round.

    Each logit is off by at most g · u · s: u the rounding unit, s the largest magnitude among the row's logits, g how
    errors add up through the layers (measured, with room). Two of them are compared, so twice that; the reference's own
    float32 rounding is added in the same way.

    Args:
        logits: reference [n, n_target].
        dtype: the engine's.

    Returns:
        Bounds [n], in logits.

    Raises:
        InputError: an unknown dtype.
    """
    if dtype not in _ROUNDING:
        raise InputError(
            "It is not known how this type rounds",
            got=dtype,
            expected=", ".join(_ROUNDING),
            next_step="name the type in which the engine computes the target (--engine-dtype)",
        )
    scale = logits.masked_fill(~logits.isfinite(), 0.0).abs().amax(-1).double()
    return 2 * (_ROUNDING[dtype] + _ROUNDING["float32"]) * scale


def check_greedy(
    engine: Engine,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
) -> GreedyResult:
    """Ask the engine for greedy outputs and judge every token by the reference's logits after the same text.

    Behind a tie the engine's text goes on another way than the reference's; it is judged by its own text there.

    Raises:
        ModelError: the engine failed.
        NumericalError: the reference's logits hold NaN.
        InputError: an unknown dtype.
    """
    params = SamplingParams(temperature=0.0, repetition_penalty=repetition_penalty)
    found: list[Disagreement] = []
    n_tokens = n_equal = 0
    for number, prompt in enumerate(prompts):
        output = engine.sample(prompt, params=params, n_samples=1, max_new_tokens=max_new_tokens, seed=0)
        (ids,) = checked(output, n_samples=1, max_new_tokens=max_new_tokens, n_target=reference.n_target)
        before = [ids[:n] for n in range(len(ids))]
        logits = law_logits(reference, prompt, before, params)
        bounds = tie_bounds(logits, engine.dtype)
        best, choice = logits.max(-1)
        own = logits.gather(-1, torch.tensor(ids, device=logits.device).unsqueeze(-1)).squeeze(-1)
        # equal logits are the reference's choice whichever of them it is
        differs = [
            Disagreement(prompt=number, position=n, got=ids[n], expected=expected, gap=gap, bound=bound)
            for n, (expected, gap, bound) in enumerate(
                zip(choice.tolist(), (best - own).tolist(), bounds.tolist(), strict=True)
            )
            if gap > 0
        ]
        found += differs
        n_tokens += len(ids)
        n_equal += not differs
    return GreedyResult(n_prompts=len(prompts), n_tokens=n_tokens, n_equal=n_equal, disagreements=tuple(found))
