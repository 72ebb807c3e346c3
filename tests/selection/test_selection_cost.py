"""Costs of a draft step: the paper's numbers, the weights of real models, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drafter_configs import EAGLE3
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from outlex.errors import InputError, ModelError
from outlex.models.output_head import output_head
from outlex.selection.architecture import shape_of
from outlex.selection.cost import DrafterShape, LinearCost, reduction, weight_bytes


def test_the_numbers_of_the_paper() -> None:
    shape = shape_of(EAGLE3)
    cost = shape.flops()
    assert cost.head_share == pytest.approx(0.6415, abs=5e-5)
    assert float(reduction(cost, torch.tensor([32000]))) == pytest.approx(0.481, abs=5e-4)


def test_the_parts_of_the_paper_by_hand() -> None:
    d, f, head_dim = 4096, 14336, 128
    assert shape_of(EAGLE3).flops_by_part(32000) == {
        "fc": 2 * 3 * d * d,
        "attention_q": 2 * 2 * d * 32 * head_dim,
        "attention_k": 2 * 2 * d * 8 * head_dim,
        "attention_v": 2 * 2 * d * 8 * head_dim,
        "attention_o": 2 * 32 * head_dim * d,
        "mlp": 3 * 2 * d * f,
        "head": 2 * d * 32000,
    }


@pytest.mark.parametrize("written", ["speculators", "authors"])
def test_the_same_eagle3_head_in_other_formats(written: str) -> None:
    config: dict[str, Any] = {**EAGLE3, "architectures": ["LlamaForCausalLM"]}
    if written == "speculators":
        layer = {key: value for key, value in config.items() if key not in ("architectures", "draft_vocab_size")}
        config = {"speculators_model_type": "eagle3", "transformer_layer_config": layer, "draft_vocab_size": 32000}
    assert shape_of(config) == shape_of(EAGLE3)


def test_the_width_of_the_target_decides_the_fusing_layer() -> None:
    assert shape_of({**EAGLE3, "target_hidden_size": 8192}).feature_size == 3 * 8192


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "family",
    [
        *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral"),
        *("olmo2", "phi3", "qwen2", "qwen3", "smollm3"),
    ],
)
def test_flops_count_every_matrix_of_a_real_model(family: str, tied: bool) -> None:
    model = tiny_model(family=family, n_layers=3, tied=tied, intermediate_size=48, num_key_value_heads=1).model
    n_weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    shape = shape_of(model.config)
    assert sum(shape.flops_by_part(shape.n_rows).values()) == 2 * n_weights
    assert float(shape.flops().of(torch.tensor([shape.n_rows]))) == 2 * n_weights


def test_a_head_dim_of_its_own() -> None:
    plain = {**EAGLE3, "architectures": [], "draft_vocab_size": None}
    assert shape_of(plain).head_dim == 128
    assert shape_of({**plain, "head_dim": 64}).head_dim == 64


def test_sizes_of_the_text_part_are_found() -> None:
    text = {**EAGLE3, "draft_vocab_size": None, "architectures": []}
    assert shape_of({"model_type": "gemma3", "text_config": text}) == shape_of(text)


def test_bytes_of_a_loaded_model_are_those_of_its_tensors() -> None:
    loaded = tiny_model(family="qwen2", tied=False)
    cost = weight_bytes(loaded)
    tensors = dict(loaded.model.named_parameters())
    whole = sum(t.nbytes for name, t in tensors.items() if "embed_tokens" not in name)
    assert float(cost.of(torch.tensor([cost.n_rows]))) == whole
    assert cost.per_row == output_head(loaded).weight[0].nbytes


def test_bits_of_body_and_head_are_told_apart() -> None:
    shape = shape_of(EAGLE3)
    whole, quantised = shape.bytes(), shape.bytes(body_bits=4)
    assert whole.fixed == 4 * quantised.fixed == 2 * sum(shape.weights.values())
    assert whole.per_row == quantised.per_row == 2 * 4096
    assert quantised.head_share > whole.head_share == pytest.approx(shape.flops().head_share)


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": None}, "None"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"hidden_size": "4096"}, "hidden_size"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"model_type": "qwen3"}, "head_dim"),
        ({"num_attention_heads": 33}, "head_dim"),
    ],
)
def test_what_is_not_known_is_refused(change: dict[str, Any], needle: str) -> None:
    with pytest.raises(ModelError, match=needle) as caught:
        shape_of({**EAGLE3, **change})
    assert "--objective" in str(caught.value)


def test_a_mixture_of_experts_is_refused() -> None:
    with pytest.raises(ModelError, match="not known"):
        shape_of({**EAGLE3, "model_type": "mixtral", "architectures": [], "draft_vocab_size": None})


def test_impossible_shapes_and_costs_are_refused() -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        shape_of({**EAGLE3, "num_key_value_heads": 5})
    shape = shape_of(EAGLE3)
    with pytest.raises(InputError, match="n_layers"):
        DrafterShape(**{**vars(shape), "n_layers": 0})
    for fixed, per_row, n_rows in ((-1.0, 1.0, 5), (1.0, 0.0, 5), (1.0, float("nan"), 5), (1.0, 1.0, 0)):
        with pytest.raises(InputError, match="cost of a draft step"):
            LinearCost(unit="FLOPs", n_rows=n_rows, fixed=fixed, per_row=per_row)


@given(st.floats(0, 1e12), st.floats(1e-3, 1e9), st.integers(1, 300_000), st.data())
def test_reduction_is_nothing_at_full_size_and_falls_with_rows(
    fixed: float, per_row: float, n_rows: int, data: st.DataObject
) -> None:
    cost = LinearCost(unit="FLOPs", n_rows=n_rows, fixed=fixed, per_row=per_row)
    sizes = sorted(data.draw(st.lists(st.integers(1, n_rows), min_size=2, max_size=9)))
    saved = reduction(cost, torch.tensor([*sizes, n_rows]))
    assert float(saved[-1]) == 0
    assert bool((saved.diff() <= 1e-12).all())
    assert bool((saved <= cost.head_share + 1e-12).all())
