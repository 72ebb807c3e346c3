"""Our network against that of the speculators library, and EAGLE's against a layer of transformers: random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from eagle_builders import D, eagle_module, tiny_eagle
from tiny_models import tiny_model
from torch import Tensor
from torch.nn import functional as F

from outlex.formats.eagle_checkpoint import save_eagle

N, N_STEPS = 9, 3


@pytest.mark.parametrize(
    ("family", "own", "changes"),
    [
        ("llama", None, {}),
        ("llama", "head", {"qkv_bias": True, "residual_is_normed": True}),
        ("qwen3", "map", {"qk_norm": True, "feature_norm": "each", "feeds_back_normed": True}),
        ("llama", None, {"feature_norm": "joint", "feature_layers": (1, 3, 4)}),
    ],
)
def test_logits_of_every_step_are_those_of_speculators(
    family: str, own: str | None, changes: dict[str, Any], tmp_path: Path
) -> None:
    """It loads what `save_eagle` wrote, and unrolls the same three steps over the same text."""
    eagle3 = pytest.importorskip("speculators.models.eagle3", reason="the speculators library is not installed")
    target = tiny_model(family=family, n_layers=4, sharpness=1.0)
    target.model.save_pretrained(tmp_path / "target")
    generator, n_rows = torch.Generator().manual_seed(3), target.n_rows
    ids = None if own is None else torch.randperm(n_rows, generator=generator)[:40]
    head = torch.randn(40, D, generator=generator) if own == "head" else None
    checkpoint = tiny_eagle(target, head=head, draft_to_target=ids, **changes)
    save_eagle(tmp_path / "drafter", checkpoint, verifier=str(tmp_path / "target"))

    config = eagle3.Eagle3SpeculatorConfig.from_pretrained(tmp_path / "drafter")
    config.transformer_layer_config._attn_implementation = "eager"
    theirs = eagle3.Eagle3DraftModel.from_pretrained(tmp_path / "drafter", config=config).float().eval()
    # it takes the target's matrices only into memory that still holds NaN, and transformers has overwritten that
    theirs._load_verifier_weights(overwrite_embed_tokens=True, overwrite_lm_head=head is None)
    logits: list[Tensor] = []
    theirs.lm_head.register_forward_hook(lambda module, args, output: logits.append(output[0]))
    tokens = torch.randint(n_rows, (1, N), generator=generator)
    features = torch.randn(1, N, checkpoint.config.n_feature_values, generator=generator)
    with torch.no_grad():
        theirs(
            hidden_states=features,
            input_ids=tokens,
            document_ids=torch.zeros(1, N, dtype=torch.int64),
            ttt_steps=N_STEPS,
        )

    embedding = target.model.get_input_embeddings().weight
    padded = F.pad(tokens, (0, N_STEPS - 1))
    states = checkpoint.module.unroll(embedding[padded], features, n_steps=N_STEPS)
    rows = head if head is not None else target.model.get_output_embeddings().weight
    if ids is not None:
        order = ids.argsort()  # speculators' rows are in the order of their ids
        rows = rows[order] if head is not None else rows[ids[order]]
    assert len(logits) == N_STEPS
    for state, wanted in zip(states, logits, strict=True):
        torch.testing.assert_close(state[0] @ rows.T, wanted, atol=1e-4, rtol=1e-4)


def test_eagle_is_fc_and_a_layer_of_transformers_without_its_first_norm() -> None:
    """The library has no EAGLE module any more, so the reference is put together from the paper's parts."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    module = eagle_module(kind="eagle", feature_layers=(4,), fc_bias=True, qkv_bias=True, o_bias=True)
    config = LlamaConfig(
        hidden_size=D,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=module.config.norm_eps,
        attention_bias=True,
    )
    config._attn_implementation = "eager"
    layer = LlamaDecoderLayer(config, layer_idx=0).eval()
    layer.input_layernorm = torch.nn.Identity()
    parts = module.named_parts()
    prefix = "layers.0."
    layer.load_state_dict({k.removeprefix(prefix): v for k, v in parts.items() if k.startswith(prefix)})
    generator = torch.Generator().manual_seed(6)
    embedded, features = torch.randn(2, 1, N, D, generator=generator)
    with torch.no_grad():
        joined = F.linear(torch.cat([embedded, features], dim=-1), parts["fc.weight"], parts["fc.bias"])
        wanted = layer(
            joined,
            attention_mask=torch.full((N, N), -torch.inf).triu(1)[None, None],
            position_embeddings=LlamaRotaryEmbedding(config)(joined, torch.arange(N)[None]),
        )
        (found,) = module.unroll(embedded, features, n_steps=1)
    torch.testing.assert_close(found, wanted[0] if isinstance(wanted, tuple) else wanted, atol=1e-4, rtol=1e-4)
