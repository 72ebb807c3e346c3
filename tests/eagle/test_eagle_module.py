"""The network: decoding and training compute the same, settings that make no network are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from eagle_builders import VARIANTS, D, eagle_config, eagle_module

from outlex.eagle import EagleConfig, EagleModule, TargetIdentity
from outlex.eagle.runner import EagleRunner
from outlex.errors import InputError, MismatchError


@pytest.mark.parametrize("variant", VARIANTS)
def test_unrolled_steps_are_the_drafts_of_decoding(variant: str) -> None:
    """Step k at position i is the k-th draft after the first i verified positions."""
    module = eagle_module(**VARIANTS[variant])
    n, n_steps = 6, 3
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(1, n + n_steps - 1, D, generator=generator)
    features = torch.randn(1, n, module.config.n_feature_values, generator=generator)
    unrolled = module.unroll(embedded, features, n_steps=n_steps)
    runner = EagleRunner(module)
    for i in range(n):
        runner.rollback(i)
        for_head, fed_back = runner.forward(embedded[0, i : i + 1], module.fuse(features[0, i : i + 1]))
        torch.testing.assert_close(for_head[0], unrolled[0][0, i], atol=1e-5, rtol=1e-5)
        for step in range(1, n_steps):
            for_head, fed_back = runner.forward(embedded[0, i + step : i + step + 1], fed_back)
            torch.testing.assert_close(for_head[0], unrolled[step][0, i], atol=1e-5, rtol=1e-5)
    at_once = EagleRunner(module).forward(embedded[0, :n], module.fuse(features[0]))[0]
    torch.testing.assert_close(at_once[0], unrolled[0][0, -1], atol=1e-5, rtol=1e-5)


def test_texts_packed_into_a_row_do_not_see_each_other() -> None:
    module, n_steps = eagle_module(), 3
    generator = torch.Generator().manual_seed(2)
    embedded = torch.randn(1, 9 + n_steps - 1, D, generator=generator)
    features = torch.randn(1, 9, module.config.n_feature_values, generator=generator)
    segments = torch.tensor([[-1, 0, 0, 0, 7, 7, 7, 7, -1]])
    packed = module.unroll(embedded, features, n_steps=n_steps, segments=segments)
    for first, last in ((1, 4), (4, 8)):
        alone = module.unroll(embedded[:, first : last + n_steps - 1], features[:, first:last], n_steps=n_steps)
        for together, apart in zip(packed, alone, strict=True):
            torch.testing.assert_close(together[:, first:last], apart, atol=1e-5, rtol=1e-5)
    assert all(bool(step.isfinite().all()) for step in packed)


def test_embeddings_that_do_not_reach_as_far_as_the_steps_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit") as caught:
        eagle_module().unroll(torch.randn(1, 5, D), torch.randn(1, 5, 3 * D), n_steps=2)
    assert "without its first token" in str(caught.value)


def test_the_cache_grows_and_its_contents_stay() -> None:
    module = eagle_module()
    runner, other = EagleRunner(module), EagleRunner(module)
    embedded, states = torch.randn(600, D), torch.randn(600, D)
    runner.forward(embedded[:500], states[:500])
    runner.forward(embedded[500:], states[500:])
    other.forward(embedded, states)
    for in_two, in_one in zip(runner.cached, other.cached, strict=True):
        torch.testing.assert_close(in_two, in_one, atol=1e-5, rtol=1e-5)


def test_autocast_trains_float32_weights() -> None:
    module = eagle_module()
    with torch.autocast("cpu", torch.bfloat16):
        states = module.unroll(torch.randn(2, 6, D), torch.randn(2, 5, 3 * D), n_steps=2)
        loss = torch.stack(states).float().square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(part.grad is not None and bool(part.grad.isfinite().all()) for part in module.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_named_parts_cover_every_weight_once_and_set_it(variant: str) -> None:
    module, other = eagle_module(**VARIANTS[variant]), eagle_module(seed=1, **VARIANTS[variant])
    parts = module.named_parts()
    assert sum(part.numel() for part in parts.values()) == sum(p.numel() for p in module.parameters())
    with torch.no_grad():
        for name, part in other.named_parts().items():
            part.copy_(parts[name])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_scaled_rotation_is_that_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    for rope in ({"rope_type": "llama3", **llama3}, {"rope_type": "default"}):
        rope = {"rope_theta": 500.0, **rope}
        module = EagleModule(eagle_config(rope=rope, max_length=512))
        heads = torch.randn(40, 6, 8)
        like = LlamaConfig(
            hidden_size=D,
            num_attention_heads=4,
            head_dim=8,
            max_position_embeddings=512,
            rope_parameters=dict(rope),
        )
        cos, sin = LlamaRotaryEmbedding(like)(heads, torch.arange(40)[None])
        wanted, _ = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], cos, sin)
        torch.testing.assert_close(module.rotary(heads, 0), wanted[0].transpose(0, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"feature_layers": (1, 5)}, "feature_layers"),
        ({"feature_layers": (1, 1)}, "feature_layers"),
        ({"feature_layers": ()}, "feature_layers"),
        ({"feature_layers": (-1,)}, "feature_layers"),
        ({"kind": "eagle"}, "target's last state"),
        ({"kind": "medusa"}, "medusa"),
        ({"n_heads": 5}, "heads"),
        ({"head_dim": 7}, "even width"),
        ({"intermediate_size": 0}, "intermediate_size"),
        ({"n_draft": 51}, "n_draft"),
        ({"hidden_size": 64}, "same width"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"rope": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope"),
        ({"rope": {"rope_type": "default"}}, "rope_theta"),
    ],
)
def test_settings_that_make_no_network_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        eagle_config(**changes)
    assert "EagleConfig.for_target" in str(caught.value)


def test_a_config_like_one_layer_of_the_target_and_targets_it_does_not_fit() -> None:
    from tiny_models import tiny_model

    target = tiny_model(n_layers=6, tied=True)
    config = EagleConfig.for_target(target, intermediate_size=40)
    assert (config.feature_layers, config.hidden_size, config.intermediate_size) == ((2, 3), 32, 40)
    assert config.target.tokenizer_fingerprint is not None
    config.target.check(target)
    for other, what in (
        (tiny_model(n_layers=5), "layers"),
        (tiny_model(n_layers=6, n_rows=270), "rows of the LM head"),
        (tiny_model(n_layers=6, hidden_size=64), "hidden size"),
    ):
        with pytest.raises(MismatchError, match=what) as caught:
            config.target.check(other)
        assert "load the target it was made for" in str(caught.value)
    foreign = TargetIdentity(name="x", hidden_size=32, n_layers=6, n_rows=260, tokenizer_fingerprint="other")
    with pytest.raises(MismatchError, match="fingerprint"):
        foreign.check(target)
