"""Small random EAGLE networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from outlex.eagle import EagleCheckpoint, EagleConfig, EagleModule, TargetIdentity

if TYPE_CHECKING:
    from torch import Tensor

    from outlex.models.language_model import LanguageModel

D = 32

# one of each switch, in as few networks as possible
VARIANTS: dict[str, dict[str, Any]] = {
    "eagle": {"kind": "eagle", "feature_layers": (4,), "fc_bias": True, "qkv_bias": True},
    "eagle3": {},
    "eagle3-qwen3": {"qk_norm": True, "qkv_bias": True, "o_bias": True, "residual_is_normed": True},
    "eagle3-joint": {"feature_norm": "joint", "feature_layers": (0, 4)},
    "eagle3-each": {"feature_norm": "each", "feeds_back_normed": True},
}


def eagle_config(**changes: Any) -> EagleConfig:
    """A small config; the target has 4 layers, `D` wide, and 50 rows."""
    sizes: dict[str, Any] = {
        "kind": "eagle3",
        "target": TargetIdentity(name="toy", hidden_size=D, n_layers=4, n_rows=50),
        "feature_layers": (1, 2, 3),
        "hidden_size": D,
        "intermediate_size": 48,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 8,
    }
    return EagleConfig(**(sizes | changes))


def eagle_module(seed: int = 0, *, config: EagleConfig | None = None, **changes: Any) -> EagleModule:
    """A network with random weights, norms included; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = EagleModule(config or eagle_config(**changes))
        for part in module.parameters():
            if part.ndim == 1:
                torch.nn.init.normal_(part, mean=1.0, std=0.2)
    return module


def tiny_eagle(
    target: LanguageModel,
    seed: int = 0,
    *,
    embedding: Tensor | None = None,
    head: Tensor | None = None,
    draft_to_target: Tensor | None = None,
    **changes: Any,
) -> EagleCheckpoint:
    """A random drafter for a tiny model, whose embedding and head it shares where it is given none."""
    settings: dict[str, Any] = {
        "feature_layers": (1, 2),
        "intermediate_size": 48,
        "has_own_embedding": embedding is not None,
        "has_own_head": head is not None,
        "n_draft": None if draft_to_target is None else len(draft_to_target),
    }
    config = EagleConfig.for_target(target, **(settings | changes))
    module = eagle_module(seed, config=config)
    return EagleCheckpoint(module=module, embedding=embedding, head=head, draft_to_target=draft_to_target)
