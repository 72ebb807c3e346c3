"""Sampling several prompts in one forward pass: the target alone, no drafts.

Reading the weights is what a step costs on a CPU, and a batch reads them once for all its prompts. Prompts are padded
on the left; the padding is masked, and positions count from each prompt's own first token.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.errors import NumericalError
from outlex.models.output_head import output_head
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
    from transformers import DynamicCache

    head, body = output_head(target), _body_of(target)
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask, uniforms = ids.to(target.device), mask.to(target.device), uniforms.to(target.device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    cache = DynamicCache(config=target.model.config)
    responses: list[list[int]] = [[] for _ in prompts]
    going = [True] * len(prompts)
    for step in range(uniforms.shape[1]):
        out = body(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        probs = probabilities(head.logits(out.last_hidden_state[:, -1]), params)
        if bool(probs[:, 0].isnan().any()):
            raise NumericalError(
                "The target's logits hold NaN or infinity",
                expected="finite logits",
                next_step="try float32 (--dtype float32); if it stays, the checkpoint is damaged",
            )
        drawn = inverse_cdf(probs, uniforms[:, step])
        for row, token_id in enumerate(drawn.tolist()):
            if going[row]:
                responses[row].append(token_id)
                going[row] = token_id not in stop_ids
        if not any(going):
            break
        ids, positions = drawn.unsqueeze(-1), positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=-1)
    return responses


def _body_of(target: LanguageModel) -> Any:
    return target.model.get_decoder()
