"""What is written in one format and read back, and what is converted through a second one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from map_files import ASCENDING, GOOD, RANKED, WIDTH

from outlex.atomic import TEMPORARY
from outlex.errors import ArtifactError, InputError, VocabError
from outlex.formats import WRITERS, MapFile, WriteRequest, read_map
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import facts_of

NAMES = {
    "outlex": "vocab",
    "sglang-token-map": "map.pt",
    "eagle3-d2t": "map.safetensors",
    "speculators": "maps",
    "medusa-token-map": "map.safetensors",
    "gguf": "map.gguf",
    "token-ids": "ids.json",
}
# What the file itself says; the other formats hold ids and nothing else.
SAYS_WIDTH = {"outlex", "eagle3-d2t", "speculators", "gguf"}
# speculators wants rows in the order of their ids.
SORTS = {"speculators"}


def a_map(ids: list[int], *, n_target: int | None = WIDTH) -> MapFile:
    return MapFile(
        format="token-ids",
        path=Path("memory.json"),
        ids=torch.tensor(ids),
        n_target=n_target,
        spelling="absolute",
        settled_by="a test",
        layout="a test",
    )


def request(output: Path, tokenizer: Any, *, n_target: int | None = None) -> WriteRequest:
    return WriteRequest(output=output, n_target=n_target, facts=facts_of(tokenizer))


def test_every_writer_is_tested() -> None:
    assert set(NAMES) == set(WRITERS)


@pytest.mark.parametrize("name", NAMES)
def test_written_and_read_back(name: str, byte_level: Any, tmp_path: Path) -> None:
    WRITERS[name].write(a_map(RANKED), request(tmp_path / NAMES[name], byte_level))
    found = read_map(tmp_path / NAMES[name])
    assert found.format == name
    assert found.ids.tolist() == (ASCENDING if name in SORTS else RANKED)
    assert found.n_target == (WIDTH if name in SAYS_WIDTH else None)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(NAMES, 2)))
def test_through_two_formats(first: str, second: str, byte_level: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "a" / NAMES[first], tmp_path / "b" / NAMES[second]
    WRITERS[first].write(a_map(RANKED), request(here, byte_level))
    WRITERS[second].write(read_map(here), request(there, byte_level, n_target=WIDTH))
    found = read_map(there)
    assert found.ids.tolist() == (ASCENDING if {first, second} & SORTS else RANKED)


@pytest.mark.parametrize("source", GOOD)
@pytest.mark.parametrize("name", NAMES)
def test_from_every_file_that_is_read(source: str, name: str, byte_level: Any, tmp_path: Path) -> None:
    file_name, ids, make = GOOD[source]
    before = read_map(make(tmp_path / file_name))
    WRITERS[name].write(before, request(tmp_path / "out" / NAMES[name], byte_level, n_target=WIDTH))
    after = read_map(tmp_path / "out" / NAMES[name])
    assert after.ids.tolist() == (sorted(ids) if name in SORTS else ids)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ids=st.lists(st.integers(0, 299), min_size=1, max_size=40, unique=True))
@pytest.mark.parametrize("name", ["sglang-token-map", "eagle3-d2t", "speculators", "medusa-token-map", "gguf"])
def test_any_map_survives(name: str, ids: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    output = tmp_path_factory.mktemp("out") / NAMES[name]
    WRITERS[name].write(a_map(ids, n_target=300), WriteRequest(output=output))
    assert read_map(output).ids.tolist() == (sorted(ids) if name in SORTS else ids)


def test_text_lists_by_their_name(byte_level: Any, tmp_path: Path) -> None:
    WRITERS["token-ids"].write(a_map(RANKED), request(tmp_path / "ids.txt", byte_level))
    assert (tmp_path / "ids.txt").read_text() == "".join(f"{i}\n" for i in RANKED)
    assert read_map(tmp_path / "ids.txt").ids.tolist() == RANKED


def test_outlex_keeps_what_has_to_be_kept(byte_level: Any, tmp_path: Path) -> None:
    facts = facts_of(byte_level)
    wanted = WriteRequest(output=tmp_path / "v", facts=facts, n_target=facts.n_entries, must_keep_ids=(3, 4, 9))
    WRITERS["outlex"].write(a_map(RANKED, n_target=None), wanted)
    vocab = SubVocab.load(tmp_path / "v")
    assert vocab.must_keep_ids == (3, 4)
    vocab.check_tokenizer(facts)


@pytest.mark.parametrize("name", sorted(SAYS_WIDTH - {"outlex"}))
def test_a_missing_width_is_asked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="width") as caught:
        WRITERS[name].write(a_map(RANKED, n_target=None), WriteRequest(output=tmp_path / NAMES[name]))
    assert "--n-target" in str(caught.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(SAYS_WIDTH))
def test_a_width_that_is_too_small_is_refused(name: str, byte_level: Any, tmp_path: Path) -> None:
    with pytest.raises(VocabError, match="does not fit"):
        WRITERS[name].write(a_map(RANKED), request(tmp_path / NAMES[name], byte_level, n_target=20))
    assert not any(tmp_path.iterdir())


def test_outlex_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer"):
        WRITERS["outlex"].write(a_map(RANKED), WriteRequest(output=tmp_path / "v"))


@pytest.mark.parametrize("name", NAMES)
def test_a_refusing_disk_leaves_nothing_behind(
    name: str, byte_level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ArtifactError) as caught:
        WRITERS[name].write(a_map(RANKED), request(tmp_path / "new" / NAMES[name], byte_level))
    assert "space" in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_an_older_file_is_whole_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "map.pt"
    WRITERS["sglang-token-map"].write(a_map(RANKED), WriteRequest(output=output))

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        with pytest.raises(ArtifactError):
            WRITERS["sglang-token-map"].write(a_map([1, 2]), WriteRequest(output=output))
    assert read_map(output).ids.tolist() == RANKED
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(TEMPORARY)]


def test_directories_are_never_replaced(byte_level: Any, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtifactError, match="never replaced"):
        WRITERS["speculators"].write(a_map(RANKED), request(tmp_path / "maps", byte_level))
    assert [file.name for file in (tmp_path / "maps").iterdir()] == ["thesis.tex"]
    with pytest.raises(ArtifactError, match="is a directory"):
        WRITERS["sglang-token-map"].write(a_map(RANKED), request(tmp_path / "maps", byte_level))
