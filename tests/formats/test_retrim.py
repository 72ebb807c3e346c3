"""A drafter cut to fewer tokens: the right rows, the right map, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from map_files import (
    HIDDEN,
    RANKED,
    WIDTH,
    drafter_weights,
    eagle3,
    eagle3_config,
    head,
    offsets,
    speculators,
    speculators_config,
    torch_file,
    write_json,
)
from safetensors.torch import load_file, save_file

from outlex.errors import ArtifactError, InputError
from outlex.formats import Reading, read_map
from outlex.formats.retrim import retrim


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in directory.glob("*.safetensors") for name, t in load_file(file).items()}


def cut(
    path: Path, output: Path, *, order: list[int] = RANKED, size: int | None = 4, must: tuple[int, ...] = ()
) -> Any:
    return retrim(path, order=torch.tensor(order, dtype=torch.int64), size=size, must_keep_ids=must, output=output)


@pytest.mark.parametrize("layout", ["single", "sharded", "pickled"])
def test_rows_map_and_config(layout: str, tmp_path: Path) -> None:
    path = eagle3(tmp_path / "d", layout=layout)
    (path / "notes").mkdir()
    (path / "notes" / "README.md").write_text("hello", encoding="utf-8")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    done = cut(path, tmp_path / "e", must=(5,))
    # the three hottest and the must-keep id, by id; row r of the old head is full of r
    kept = sorted([*RANKED[:3], 5])
    assert done.ids.tolist() == kept
    found = tensors_of(tmp_path / "e")
    assert found["lm_head.weight"][:, 0].tolist() == [RANKED.index(i) for i in kept]
    assert found["d2t"].equal(offsets(kept))
    assert found["t2d"].nonzero().flatten().tolist() == kept
    assert read_map(tmp_path / "e").ids.tolist() == kept
    for name, tensor in drafter_weights(len(RANKED)).items():
        if name != "lm_head.weight":
            assert found[name].equal(tensor), name
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    assert config == {**eagle3_config(len(RANKED)), "draft_vocab_size": 4}
    assert (tmp_path / "e" / "notes" / "README.md").read_text() == "hello"
    assert (tmp_path / "e" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "e" / "pytorch_model.bin").exists()
    if layout == "sharded":
        index = json.loads((tmp_path / "e" / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(found)
        assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in found.values())


def test_the_original_is_only_read(tmp_path: Path) -> None:
    path = eagle3(tmp_path / "d")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    cut(path, tmp_path / "e")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_speculators_drafter_keeps_its_layout(tmp_path: Path) -> None:
    path = speculators(tmp_path / "d")
    cut(path, tmp_path / "e")
    found = read_map(tmp_path / "e")
    assert (found.format, found.n_draft, found.traps) == ("speculators", 4, ())
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    assert config == {**speculators_config(len(RANKED)), "draft_vocab_size": 4}


def test_a_whole_head_gets_a_map(tmp_path: Path) -> None:
    write_json(tmp_path / "d" / "config.json", eagle3_config(WIDTH))
    save_file(drafter_weights(WIDTH), tmp_path / "d" / "model.safetensors")
    done = cut(tmp_path / "d", tmp_path / "e", size=None)
    assert done.ids.tolist() == sorted(RANKED)
    found = tensors_of(tmp_path / "e")
    assert found["lm_head.weight"][:, 0].tolist() == sorted(RANKED)
    assert found["t2d"].nonzero().flatten().tolist() == sorted(RANKED)


@pytest.mark.parametrize("layout", ["single", "sharded", "pickled"])
def test_modelopt_gets_a_mask_that_proves_its_map(layout: str, tmp_path: Path) -> None:
    # 3 and 16 are a map as ids and as offsets: without t2d nobody could tell
    done = cut(eagle3(tmp_path / "d", has_mask=False, layout=layout), tmp_path / "e", size=2)
    assert done.ids.tolist() == [3, 17]
    assert read_map(tmp_path / "e").ids.tolist() == [3, 17]
    assert tensors_of(tmp_path / "e")["t2d"].nonzero().flatten().tolist() == [3, 17]


def test_tokens_without_a_row_are_told(tmp_path: Path) -> None:
    done = cut(eagle3(tmp_path / "d"), tmp_path / "e", order=[30, 17, 31, 99, 3], size=3, must=(1, 0))
    assert done.ids.tolist() == [0, 3, 17]
    assert done.absent == (1, 30, 31, 99)


def test_a_list_without_a_size_keeps_its_own_tokens(tmp_path: Path) -> None:
    done = cut(eagle3(tmp_path / "d"), tmp_path / "e", order=[39, 3, 20], size=None, must=(12,))
    assert done.ids.tolist() == [3, 12, 39]


def test_rows_that_nobody_named_come_last(tmp_path: Path) -> None:
    done = cut(eagle3(tmp_path / "d"), tmp_path / "e", order=[5], size=3)
    assert done.ids.tolist() == sorted([5, 17, 3])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_cut_keeps_rows_and_ids_together(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Row r of the old head is full of r: the new head says which old row each id came from."""
    old = data.draw(st.lists(st.integers(0, 99), min_size=3, max_size=30, unique=True))
    order = data.draw(st.lists(st.integers(0, 99), max_size=30, unique=True))
    must = tuple(data.draw(st.lists(st.sampled_from(old), max_size=2, unique=True)))
    size = data.draw(st.integers(max(1, len(must)), len(old)))
    folder = tmp_path_factory.mktemp("cut")
    cut(eagle3(folder / "d", old, width=100), folder / "e", order=order, size=size, must=must)
    found = tensors_of(folder / "e")
    ids = (found["d2t"] + torch.arange(size)).tolist()
    assert found["lm_head.weight"][:, 0].tolist() == [old.index(i) for i in ids]
    named = [i for i in order if i in old]
    best = [*must, *(i for i in [*named, *(i for i in old if i not in named)] if i not in must)][:size]
    assert ids == sorted(best)


@pytest.mark.parametrize("size", [0, 3, 9])
def test_impossible_sizes(size: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size"):
        cut(eagle3(tmp_path / "d"), tmp_path / "e", size=size, must=(17, 3, 4, 39))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("weights", "needle"),
    [
        ({"fc.weight": torch.ones(2, 2)}, "no lm_head.weight"),
        ({"lm_head.weight": torch.ones(8, 2), "lm_head.weight_scale": torch.ones(8)}, "a quantised head"),
        ({"lm_head.weight": torch.ones(8, 2, dtype=torch.int8)}, "lm_head.weight I8"),
        ({"lm_head.weight": torch.ones(8)}, "lm_head.weight F32"),
        ({"lm_head.weight": head(8), "lm_head.bias": torch.ones(7)}, "lm_head.bias F32 [7]"),
    ],
)
def test_heads_that_cannot_be_cut(weights: dict[str, torch.Tensor], needle: str, tmp_path: Path) -> None:
    write_json(tmp_path / "d" / "config.json", eagle3_config(8))
    save_file({**weights, "d2t": offsets(RANKED)}, tmp_path / "d" / "model.safetensors")
    with pytest.raises(ArtifactError, match="cannot be cut") as caught:
        cut(tmp_path / "d", tmp_path / "e")
    assert needle in str(caught.value)
    assert not (tmp_path / "e").exists()


def test_a_bias_is_cut_with_its_rows(tmp_path: Path) -> None:
    write_json(tmp_path / "d" / "config.json", eagle3_config(8))
    weights = {"lm_head.weight": head(8), "lm_head.bias": torch.arange(8.0), "d2t": offsets(RANKED)}
    save_file(weights, tmp_path / "d" / "model.safetensors")
    cut(tmp_path / "d", tmp_path / "e", size=2)
    found = tensors_of(tmp_path / "e")
    assert found["lm_head.bias"].tolist() == found["lm_head.weight"][:, 0].tolist() == [1, 0]
    assert found["lm_head.weight"].shape == (2, HIDDEN)


def test_an_unknown_width_is_asked_for(tmp_path: Path) -> None:
    config = {"draft_vocab_size": 8, "model_type": "llama"}
    path = eagle3(tmp_path / "d", has_mask=False, config=config)
    with pytest.raises(InputError, match="how wide") as caught:
        cut(path, tmp_path / "e")
    assert "--n-target" in str(caught.value)
    done = retrim(
        path,
        order=torch.tensor(RANKED),
        size=4,
        must_keep_ids=(),
        output=tmp_path / "e",
        reading=Reading(n_target=WIDTH),
    )
    assert done.ids.tolist() == sorted(RANKED[:4])
    assert tensors_of(tmp_path / "e")["t2d"].shape == (WIDTH,)


def test_only_drafters_are_cut(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Only the checkpoint"):
        cut(torch_file(tmp_path / "map.pt", list(RANKED)), tmp_path / "e")


def test_an_output_inside_the_checkpoint_is_refused(tmp_path: Path) -> None:
    path = eagle3(tmp_path / "d")
    with pytest.raises(InputError, match="inside the checkpoint"):
        cut(path, path / "small")
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = eagle3(tmp_path / "d")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ArtifactError, match="cannot be written"):
        cut(path, tmp_path / "e")
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]
