"""Checkpoints: our own round trip, the other spellings, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from eagle_builders import VARIANTS, D, eagle_module, tiny_eagle
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from torch import Tensor

from outlex.eagle import EagleCheckpoint, EagleModule
from outlex.errors import ArtifactError, InputError, MismatchError, OutlexError, VocabError
from outlex.formats.eagle_checkpoint import is_eagle_directory, load_eagle, read_eagle, save_eagle

Change = Callable[[dict[str, Any], dict[str, Tensor]], None]


def edited(directory: Path, change: Change) -> Path:
    """A checkpoint with another config or other tensors."""
    config = json.loads((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    change(config, tensors)
    (directory / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors")
    return directory


def same_module(first: EagleModule, second: EagleModule) -> bool:
    theirs = second.named_parts()
    return all(torch.equal(part, theirs[name]) for name, part in first.named_parts().items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_is_read_again(variant: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    changes = {**VARIANTS[variant], "o_bias": True} if variant == "eagle" else VARIANTS[variant]
    own: dict[str, Any] = {"has_own_head": True, "has_own_embedding": True, "n_draft": 20}
    module = eagle_module(**changes, **(own if variant == "eagle3-each" else {}))
    parts: dict[str, Tensor] = {}
    if variant == "eagle3-each":
        parts = {
            "embedding": torch.randn(50, D, generator=generator),
            "head": torch.randn(20, D, generator=generator),
            "draft_to_target": torch.randperm(50, generator=generator)[:20].sort().values,
        }
    save_eagle(tmp_path / "out", EagleCheckpoint(module=module, provenance={"seed": 7}, **parts))
    assert is_eagle_directory(tmp_path / "out")
    found = read_eagle(tmp_path / "out")
    assert found.config == module.config
    assert found.provenance == {"seed": 7}
    assert same_module(found.module, module)
    for name, wanted in parts.items():
        assert torch.equal(getattr(found, name), wanted)
    with pytest.raises(ArtifactError, match="exists already"):
        save_eagle(tmp_path / "out", found)


def test_rows_go_into_the_order_of_their_ids(tmp_path: Path) -> None:
    """speculators fills heads by the mask, so another order would give the rows of other tokens."""
    module = eagle_module(has_own_head=True, n_draft=3)
    head = torch.randn(3, D)
    save_eagle(tmp_path / "out", EagleCheckpoint(module=module, head=head, draft_to_target=torch.tensor([40, 2, 7])))
    found = read_eagle(tmp_path / "out")
    assert found.draft_to_target is not None
    assert found.draft_to_target.tolist() == [2, 7, 40]
    assert found.head is not None
    assert torch.equal(found.head, head[[1, 2, 0]])


def test_biases_of_qwen2_get_a_fourth_that_adds_nothing(tmp_path: Path) -> None:
    module = eagle_module(qkv_bias=True)
    save_eagle(tmp_path / "out", EagleCheckpoint(module=module))
    found = read_eagle(tmp_path / "out").module
    embedded, features = torch.randn(1, 6, D), torch.randn(1, 5, 3 * D)
    for first, second in zip(
        module.unroll(embedded, features, n_steps=2), found.unroll(embedded, features, n_steps=2), strict=True
    ):
        torch.testing.assert_close(first, second)


def own_spelling(directory: Path, *, layers: list[int] | None) -> Path:
    """The checkpoint of `save_eagle` as SafeAILab's and SpecForge's EAGLE-3 spells it."""

    def change(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        layer = config.pop("transformer_layer_config")
        width = config["draft_vocab_size"]
        config.clear()
        config |= {**layer, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": width}
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        if layers is not None:
            config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": layers, "use_aux_hidden_state": True}
        for name in [name for name in tensors if name.startswith("layers.0.")]:
            tensors["midlayer." + name.removeprefix("layers.0.")] = tensors.pop(name)

    return edited(directory, change)


def test_the_spelling_of_eagle3_is_read(tmp_path: Path) -> None:
    module = eagle_module(has_own_head=True, n_draft=20, feature_layers=(2, 3, 4))
    ids = torch.randperm(50)[:20].sort().values
    checkpoint = EagleCheckpoint(module=module, head=torch.randn(20, D), draft_to_target=ids)
    save_eagle(tmp_path / "out", checkpoint)
    found = read_eagle(own_spelling(tmp_path / "out", layers=[1, 2, 3]))
    # eagle_config counts the first layer's output as 0
    assert found.config.feature_layers == (2, 3, 4)
    assert found.config.target.n_layers is None
    assert same_module(found.module, module)
    assert found.draft_to_target is not None
    assert torch.equal(found.draft_to_target, ids)


def test_without_numbers_of_layers_the_target_decides(tmp_path: Path) -> None:
    target = tiny_model(n_layers=8)
    drafter = tiny_eagle(target, feature_layers=(2, 4, 5))
    save_eagle(tmp_path / "out", drafter)
    own_spelling(tmp_path / "out", layers=None)
    assert read_eagle(tmp_path / "out", target=target).config.feature_layers == (2, 4, 5)
    with pytest.raises(MismatchError, match="how many layers") as caught:
        read_eagle(tmp_path / "out")
    assert "target=load_model" in str(caught.value)


def _drop(name: str) -> Change:
    return lambda config, tensors: tensors.__delitem__(name) and None  # type: ignore[func-returns-value]


def _put(**tensors: Tensor) -> Change:
    return lambda _, found: found.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})


def _set(**settings: Any) -> Change:
    return lambda config, _: config.update(settings)


def _set_layer(**settings: Any) -> Change:
    return lambda config, _: config["transformer_layer_config"].update(settings)


@pytest.mark.parametrize(
    ("change", "error", "named", "remedy"),
    [
        (_drop("d2t"), ArtifactError, "lost its map", "export the drafter again"),
        (_put(d2t=torch.full((20,), 100)), VocabError, "no map", "belongs to this target"),
        (_put(d2t=torch.full((20,), -3)), VocabError, "no map", "belongs to this target"),
        (_put(d2t=torch.zeros(19, dtype=torch.int64)), OutlexError, "map", "again"),
        (_put(t2d=torch.zeros(50, dtype=torch.bool)), ArtifactError, "t2d", "export the drafter again"),
        (_put(t2d=torch.ones(50, dtype=torch.bool)), VocabError, "t2d marks 50", "make the map again"),
        (_put(d2t=torch.zeros(20)), ArtifactError, "token ids", "make the map again"),
        (_put(fc__weight=torch.zeros(D, D)), ArtifactError, "fc.weight", "same place"),
        (_put(norm__weight=torch.ones(D, dtype=torch.int8)), ArtifactError, "norm.weight", "before quantisation"),
        (_put(norm__weight=torch.ones(D).bfloat16()), ArtifactError, "several dtypes", "one dtype"),
        (_put(lm_head__weight=torch.ones(20, D, dtype=torch.int8)), ArtifactError, "lm_head", "before quantisation"),
        (_drop("norm.weight"), ArtifactError, "missing: norm.weight", "same place"),
        (_put(surplus=torch.zeros(3)), ArtifactError, "too many: surplus", "same place"),
        (_set(eagle_aux_hidden_state_layer_ids=[1, 2, 9]), ArtifactError, "feature_layers", "config.json"),
        (_set(eagle_aux_hidden_state_layer_ids="2"), ArtifactError, "numbers of layers", "config.json"),
        (_set(norm_before_fc=True, fc_norm=True), ArtifactError, "two norms", "config.json"),
        (_set(draft_vocab_size=21), ArtifactError, "does not belong to its head", "export the drafter again"),
        (_set(speculators_model_type="mtp"), ArtifactError, "no EAGLE checkpoint", "outlex inspect"),
        (_set(outlex={"target": {"colour": 1}}), ArtifactError, "section 'outlex'", "take the section out"),
        (_set_layer(num_hidden_layers=2), ArtifactError, "2 layers", "engine"),
        (_set_layer(hidden_act="gelu"), ArtifactError, "gelu", "engine"),
        (_set_layer(model_type="mamba"), ArtifactError, "mamba", "engine"),
        (_set_layer(hidden_size=24), ArtifactError, "make no EAGLE drafter", "config.json"),
    ],
)
def test_damage_and_contradictions_are_refused(
    change: Change, error: type[OutlexError], named: str, remedy: str, tmp_path: Path
) -> None:
    module = eagle_module(has_own_head=True, n_draft=20)
    ids = torch.arange(20) * 2
    save_eagle(tmp_path / "out", EagleCheckpoint(module=module, head=torch.randn(20, D), draft_to_target=ids))
    with pytest.raises(error, match=named) as caught:
        read_eagle(edited(tmp_path / "out", change))
    assert remedy in str(caught.value)


def test_parts_that_do_not_fit_the_config_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit the config") as caught:
        EagleCheckpoint(module=eagle_module(n_draft=20), draft_to_target=torch.arange(19))
    assert "has_own_head" in str(caught.value)


def test_a_checkpoint_for_another_target_is_refused(tmp_path: Path) -> None:
    target = tiny_model(n_layers=4)
    save_eagle(tmp_path / "out", tiny_eagle(target))
    assert load_eagle(tmp_path / "out", target=target).feature_layers == (1, 2)
    own_spelling_path = tmp_path / "own"
    save_eagle(own_spelling_path, tiny_eagle(target))
    own_spelling(own_spelling_path, layers=[0, 1])
    for path in (tmp_path / "out", own_spelling_path):
        for other in (tiny_model(n_layers=4, n_rows=300), tiny_model(n_layers=4, hidden_size=64)):
            with pytest.raises(MismatchError, match="another target") as caught:
                load_eagle(path, target=other)
            assert "load the target it was made for" in str(caught.value)


def test_whole_models_and_other_things_are_no_drafters(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"model.norm.weight": torch.ones(3)}, tmp_path / "model" / "model.safetensors")
    for path in (tmp_path / "model", tmp_path, tmp_path / "model" / "config.json", tmp_path / "nothing"):
        assert not is_eagle_directory(path)
        with pytest.raises(ArtifactError, match="no EAGLE checkpoint") as caught:
            read_eagle(path)
        assert "check the path" in str(caught.value)
