"""Damaged, wrong and hostile files: a typed error or the map that was written, and nothing is ever executed.

A format with a checksum (`torch.save`) or a second copy of the map (`t2d`) notices every flipped bit. The others have
neither: there a flipped bit can give another id, and all that can be promised is that what comes out is a map.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from map_files import (
    ASCENDING,
    GOOD,
    RANKED,
    WIDTH,
    bombs,
    gguf_drafter,
    mask,
    npy_pair,
    offsets,
    torch_file,
    write_json,
)
from safetensors.torch import save_file

from outlex.errors import ArtifactError, OutlexError, VocabError
from outlex.formats import MapFile, Reading, read_map
from outlex.vocab.sub_vocab import SubVocab

NOTICED = ("sglang-token-map", "torch-tensor", "automodel-token-map", "mapping-dict", "outlex", "npy")
EXAMPLES = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def outlex_vocab(path: Path) -> Path:
    SubVocab(
        draft_to_target=torch.tensor(RANKED), n_target=WIDTH, n_tokenizer=WIDTH, tokenizer_fingerprint="f" * 64
    ).save(path)
    return path


MADE: dict[str, tuple[str, list[int], Callable[[Path], Path]]] = {
    **GOOD,
    "outlex": ("vocab", RANKED, outlex_vocab),
    "npy": ("maps", ASCENDING, npy_pair),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("good")
    found = {}
    for name, (file_name, _, make) in MADE.items():
        (root / name).mkdir()
        found[name] = make(root / name / file_name)
    return found


def parts(path: Path) -> list[Path]:
    """The files that a map is made of."""
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def outcome(path: Path) -> MapFile | None:
    """The map, or None after a typed error with a remedy; any other error fails the test."""
    try:
        return read_map(path)
    except OutlexError as error:
        told = error
    assert told.what
    assert told.next_step
    return None


def damaged_copy(path: Path, to: Path, damage: Callable[[bytes], bytes], which: int) -> Path:
    """A copy in which one file is damaged."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    copy = to / path.name
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        shutil.copyfile(path, copy)
    files = parts(copy)
    file = files[which % len(files)]
    file.write_bytes(damage(file.read_bytes()))
    return copy


@pytest.mark.parametrize("name", MADE)
@EXAMPLES
@given(data=st.data())
def test_truncated(name: str, good: dict[str, Path], tmp_path: Path, data: st.DataObject) -> None:
    which, share = data.draw(st.integers(0, 3)), data.draw(st.floats(0, 0.999))
    found = outcome(damaged_copy(good[name], tmp_path / "x", lambda raw: raw[: int(len(raw) * share)], which))
    # a shorter list of numbers is a list, and weights that nobody needs for the map may end early
    if found is not None and name != "token-ids":
        assert found.ids.tolist() == MADE[name][1]


@pytest.mark.parametrize("name", MADE)
@EXAMPLES
@given(data=st.data())
def test_bits_flipped(name: str, good: dict[str, Path], tmp_path: Path, data: st.DataObject) -> None:
    which, place, bit = data.draw(st.integers(0, 3)), data.draw(st.floats(0, 0.9999)), data.draw(st.integers(0, 7))

    def flip(raw: bytes) -> bytes:
        at = int(len(raw) * place)
        return raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]

    found = outcome(damaged_copy(good[name], tmp_path / "x", flip, which))
    if found is not None and name in NOTICED:
        assert found.ids.tolist() == MADE[name][1]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors", ".gguf", ".json", ".txt", ""])
@EXAMPLES
@given(
    raw=st.binary(max_size=200), start=st.sampled_from([b"", b"GGUF\x03\x00\x00\x00", b"PK\x03\x04", b"\x80\x02", b"["])
)
def test_any_bytes(suffix: str, raw: bytes, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(start + raw)
    found = outcome(path)
    assert found is None or suffix in (".json", ".txt", "")


NUMBERS = st.one_of(st.integers(-3, 60), st.sampled_from([-(2**63), 2**63 - 1, 2**31, 2**62, 151_936]))


@EXAMPLES
@given(values=st.lists(NUMBERS, max_size=12), marked=st.lists(st.integers(0, WIDTH - 1), max_size=12))
def test_any_numbers_are_a_map_or_an_error(values: list[int], marked: list[int], tmp_path: Path) -> None:
    """Whatever comes out is a map that agrees with what the file says, by the definition of its spelling."""
    tensor = torch.tensor(values, dtype=torch.int64)
    paths = [
        torch_file(tmp_path / "list.pt", values),
        torch_file(tmp_path / "tensor.pt", tensor),
        torch_file(tmp_path / "masked.pt", {"d2t": tensor, "t2d": mask(marked)}),
        torch_file(tmp_path / "automodel.pt", {"selected_token_ids": tensor, "target_vocab_size": WIDTH}),
        write_json(tmp_path / "list.json", values),
    ]
    for path in paths:
        found = outcome(path)
        if found is None:
            continue
        rows = range(len(values)) if found.spelling == "offsets" else [0] * len(values)
        assert found.ids.tolist() == [value + row for value, row in zip(values, rows, strict=True)]
        assert len(set(found.ids.tolist())) == len(values) > 0
        assert min(found.ids.tolist()) >= 0
        if path.name == "masked.pt":
            assert set(found.ids.tolist()) == set(marked)
        if found.n_target is not None:
            assert max(found.ids.tolist()) < found.n_target


WRONG: dict[str, Any] = {
    "floats": torch.tensor([0.0, 1.0, 5.0]),
    "booleans": torch.tensor([True, False]),
    "bytes": torch.tensor([0, 1, 5], dtype=torch.uint8),
    "two dimensions": torch.tensor([[0, 1], [5, 6]]),
    "a number": torch.tensor(3),
    "nothing": torch.tensor([], dtype=torch.int64),
    "sparse": torch.tensor([0, 1, 5]).to_sparse(),
    "repeated": torch.tensor([5, 4, 5, 1]),
    "far out": torch.tensor([5, 1 << 40]),
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_tensors_are_refused_everywhere(problem: str, tmp_path: Path) -> None:
    tensor = WRONG[problem]
    paths = [
        torch_file(tmp_path / "tensor.pt", tensor),
        torch_file(tmp_path / "dict.pt", {"d2t": tensor, "t2d": mask([0, 1, 5])}),
        torch_file(tmp_path / "automodel.pt", {"selected_token_ids": tensor, "target_vocab_size": WIDTH}),
    ]
    if problem != "sparse":
        save_file({"d2t": tensor, "t2d": mask([0, 1, 5])}, tmp_path / "d2t.safetensors")
        save_file({"token_map": tensor}, tmp_path / "medusa.safetensors")
        arrays = npy_pair(tmp_path / "arrays")
        np.save(arrays / "d2t.npy", tensor.numpy())
        paths += [tmp_path / "d2t.safetensors", tmp_path / "medusa.safetensors", arrays]
    for path in paths:
        with pytest.raises((ArtifactError, VocabError)):
            read_map(path)


@pytest.mark.parametrize("values", [["1", "2"], [1, None], [True, False], [1, 2.0], [[1], [2]], [1 << 70], []])
def test_wrong_lists_are_refused(values: list[Any], tmp_path: Path) -> None:
    for path in (torch_file(tmp_path / "list.pt", values), write_json(tmp_path / "list.json", values)):
        with pytest.raises((ArtifactError, VocabError)):
            read_map(path)


@pytest.mark.parametrize("value", [-1, 0, 2.5, "40", True, 1 << 40])
def test_wrong_widths_are_refused(value: Any, tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", {"selected_token_ids": torch.tensor(RANKED), "target_vocab_size": value})
    with pytest.raises(ArtifactError, match="target_vocab_size"):
        read_map(path)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int8])
def test_gguf_maps_of_other_types_are_refused(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        read_map(gguf_drafter(tmp_path / "d.gguf", dtype=dtype))


def test_a_tensor_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    huge = torch.zeros(1, dtype=torch.int64).expand(1 << 40)
    with pytest.raises(ArtifactError):
        read_map(torch_file(tmp_path / "a.pt", huge))


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    paths = bombs(tmp_path / "bombs", mark)
    assert len(paths) == 8
    for how, path in paths.items():
        for reading in (Reading(), Reading(read_as="offsets"), Reading(read_as="absolute", n_target=10)):
            with pytest.raises(ArtifactError) as caught:
                read_map(path, reading)
            assert caught.value.next_step, how
            assert not mark.exists(), how


def test_the_bombs_are_real(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = bombs(tmp_path / "bombs", mark)["torch.save"]
    torch.load(path, weights_only=False).close()
    assert mark.exists()


def test_offsets_of_a_damaged_head_do_not_wrap(tmp_path: Path) -> None:
    # -2^63 less nothing is its own magnitude in int64
    path = torch_file(tmp_path / "a.pt", {"d2t": torch.tensor([-(2**63), 1, 2]), "t2d": mask([1, 2, 3])})
    with pytest.raises(VocabError):
        read_map(path)
    assert offsets([3, 1]).tolist() == [3, 0]
