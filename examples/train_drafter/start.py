"""The weights that training begins with.

An EAGLE drafter's `fc` maps a token's embedding and the target's state before it to the target's next state. The best
linear map is known in closed form, so training begins there, with a layer that adds nothing yet: on SmolLM2-135M a
third of the drafts is accepted before the first step. EAGLE-3 has no such place (the embedding only enters through
attention), so its weights are small random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from dataset import Text
from torch import Tensor

from outlex.eagle import EagleConfig, EagleModule

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["first_weights"]

_N_TEXTS = 500  # for the linear map: about 100,000 positions for 1,153 unknowns a column
_RIDGE = 1e-3  # of the mean variance


def first_weights(config: EagleConfig, target: LanguageModel, texts: Sequence[Text], *, seed: int) -> EagleModule:
    """A float32 module to train, on the target's device.

    Args:
        config: of the drafter.
        target: the model it drafts for.
        texts: to fit the linear map on.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    module = EagleModule(config).float()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)
                if name.startswith(("o_proj", "down_proj")):
                    weight.mul_(0 if config.kind == "eagle" else 0.3)
        if module.final_norm is None:
            weight, bias = _linear_map(target.model.get_input_embeddings().weight, texts[:_N_TEXTS])
            module.fc.weight.copy_(weight)
            module.fc.bias.copy_(bias)
        else:
            module.final_norm.weight.copy_(target.model.get_decoder().norm.weight)
    return module.to(target.device)


def _linear_map(embedding: Tensor, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
    """Ridge regression of the state at a token on its embedding and the state before it: [d, 2d] and [d]."""
    d = embedding.shape[1]
    squares, products = embedding.new_zeros(2 * d + 1, 2 * d + 1, dtype=torch.float32), 0
    for text in texts:
        ids, states = text.ids.long().to(embedding.device), text.last.float().to(embedding.device)
        inputs = torch.cat([embedding[ids[1:]].float(), states[:-1], states.new_ones(len(ids) - 1, 1)], dim=-1)
        squares += inputs.T @ inputs
        products = products + inputs.T @ states[1:]
    squares += _RIDGE * squares.diagonal().mean() * torch.eye(2 * d + 1, device=squares.device)
    solution = torch.linalg.solve(squares, products).T
    return solution[:, :-1], solution[:, -1]
