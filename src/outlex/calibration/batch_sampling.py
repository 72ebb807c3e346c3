"""Sampling several prompts in one forward pass: the target alone, no drafts."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.errors import NumericalError
from outlex.models.output_head import output_head
from outlex.models.shared_body import SharedBody
from outlex.randomness import inverse_cdf
from outlex.sampling import SamplingParams, probabilities

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["sample_batch"]


@torch.inference_mode()
def sample_batch(
    target: LanguageModel,
    prompts: list[list[int]],
    *,
    uniforms: Tensor,
    params: SamplingParams,
    stop_ids: AbstractSet[int],
) -> list[list[int]]:
    """Draw one response a prompt.

    Args:
        target: the model.
        prompts: token ids, each at least one.
        uniforms: numbers in [0, 1), float64 [n_prompts, max_new_tokens]: row i decides prompt i, so what is drawn for
            a prompt does not depend on its neighbours.
        params: temperature and filters.
        stop_ids: tokens that end a response; the stop token is part of it.

    Returns:
        Token ids, 1 to max_new_tokens a prompt.

    Raises:
        NumericalError: logits hold NaN or infinity.
    """
    head, body = output_head(target), SharedBody(target, len(prompts), rolls_back=False)
    uniforms = uniforms.to(target.device)
    responses: list[list[int]] = [[] for _ in prompts]
    pieces = {row: torch.tensor(prompt, device=target.device) for row, prompt in enumerate(prompts)}
    for step in range(uniforms.shape[1]):
        rows = list(pieces)
        hidden = body.forward(pieces)
        probs = probabilities(head.logits(torch.stack([hidden[row][-1] for row in rows])), params)
        if bool(probs[:, 0].isnan().any()):
            raise NumericalError(
                "The target's logits hold NaN or infinity",
                expected="finite logits",
                next_step="try float32 (--dtype float32); if it stays, the checkpoint is damaged",
            )
        drawn = inverse_cdf(probs, uniforms[rows, step])
        for row, token_id in zip(rows, drawn.tolist(), strict=True):
            responses[row].append(token_id)
        pieces = {row: drawn[i : i + 1] for i, row in enumerate(rows) if responses[row][-1] not in stop_ids}
        if not pieces:
            break
    return responses
