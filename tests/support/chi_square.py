"""A chi-square test of the first two sampled tokens of a decoder against the target's joint law."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from outlex import SpeculativeDecoder
from outlex.models import LanguageModel

N_SAMPLES = 1500
FALSE_ALARM = 1e-3


def joint_law(target: LanguageModel, prompt: list[int]) -> Tensor:
    """The target's law of two tokens, float64 [n_rows, n_rows]."""
    model: Any = target.model
    with torch.inference_mode():
        contexts = torch.tensor([[*prompt, first] for first in range(target.n_rows)])
        logits = model(contexts).logits.double()
    joint: Tensor = logits[0, len(prompt) - 1].softmax(-1)[:, None] * logits[:, len(prompt)].softmax(-1)
    return joint


def sample(decoder: SpeculativeDecoder, prompt: list[int], *, n: int = N_SAMPLES) -> list[tuple[int, int]]:
    """The first two tokens of many outputs; both lie in one block of three drafts."""
    pairs = []
    for seed in range(n):
        generation = decoder.generate(prompt, max_new_tokens=3, seed=seed, ignore_stop_ids=True)
        pairs.append((generation.token_ids[0], generation.token_ids[1]))
    return pairs


def statistic(pairs: list[tuple[int, int]], joint: Tensor, group: Tensor) -> tuple[float, int]:
    """Chi-square over cells, a group of first tokens and one of second tokens each; and the degrees of freedom.

    Args:
        pairs: sampled tokens.
        joint: their law, float64 [n, n].
        group: of each token, int64 [n], from 0 on.
    """
    n_groups = int(group.max()) + 1
    n_cells = n_groups**2
    cells = group[:, None] * n_groups + group
    expected = torch.zeros(n_cells, dtype=torch.float64).index_add_(0, cells.flatten(), joint.flatten()) * len(pairs)
    assert float(expected.min()) > 5, "the chi-square approximation needs five expected samples a cell"
    first, second = torch.tensor(pairs).T
    observed = torch.bincount(cells[first, second], minlength=n_cells).double()
    return float(((observed - expected) ** 2 / expected).sum()), n_cells - 1
