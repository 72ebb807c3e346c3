"""Every format that is read: what comes out, what settles offsets against ids, and which traps are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from map_files import (
    ASCENDING,
    GOOD,
    RANKED,
    WIDTH,
    drafter_weights,
    eagle3,
    eagle3_config,
    gguf_drafter,
    mask,
    medusa,
    npy_pair,
    offsets,
    speculators_config,
    torch_file,
    write_json,
)
from safetensors.torch import save_file

from outlex.errors import ArtifactError, InputError, OutlexError, VocabError
from outlex.formats import FORMATS, Reading, read_map, recognise
from outlex.vocab.sub_vocab import SubVocab


@pytest.mark.parametrize("name", GOOD)
def test_each_format_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    file_name, ids, make = GOOD[name]
    path = make(tmp_path / file_name)
    evidence = recognise(path)
    assert evidence is not None
    assert evidence.format == name
    found = read_map(path)
    assert found.format == name
    assert found.ids.dtype == torch.int64
    assert found.ids.tolist() == ids
    assert found.is_ascending == (ids == ASCENDING)
    assert found.n_draft == len(ids)


def test_every_format_has_a_good_file_here() -> None:
    # two hold artifacts of our own: one below, the other in tests/vllm_plugin/test_vllm_export.py
    assert {form.name for form in FORMATS} == {*GOOD, "outlex", "vllm-plugin"}


def test_an_artifact_of_outlex_brings_its_fingerprint(tmp_path: Path) -> None:
    vocab = SubVocab(
        draft_to_target=torch.tensor(RANKED), n_target=WIDTH, n_tokenizer=WIDTH, tokenizer_fingerprint="f" * 64
    )
    vocab.save(tmp_path / "vocab")
    found = read_map(tmp_path / "vocab")
    assert (found.format, found.ids.tolist(), found.n_target) == ("outlex", RANKED, WIDTH)
    assert (found.tokenizer_fingerprint, found.n_tokenizer) == ("f" * 64, WIDTH)


@pytest.mark.parametrize("layout", ["single", "sharded", "pickled"])
def test_weights_may_be_sharded_or_pickled(layout: str, tmp_path: Path) -> None:
    found = read_map(eagle3(tmp_path / "d", layout=layout))
    assert found.ids.tolist() == RANKED
    assert found.spelling == "offsets"
    assert "lm_head.weight" in found.tensors
    assert not {"d2t", "t2d"} & set(found.tensors)


def test_layouts_of_other_programs_are_named(tmp_path: Path) -> None:
    modelopt = eagle3(
        tmp_path / "modelopt",
        has_mask=False,
        config=eagle3_config(len(RANKED), eagle_config={"use_aux_hidden_state": True}),
    )
    found = read_map(modelopt)
    assert (found.ids.tolist(), found.spelling) == (RANKED, "offsets")
    assert "ModelOpt" in found.layout
    assert any("no t2d" in trap for trap in found.traps)
    automodel = eagle3(
        tmp_path / "automodel", config=eagle3_config(len(RANKED), architectures=["LlamaEagle3DraftModel"])
    )
    assert "Automodel" in read_map(automodel).layout


def test_speculators_arrays_are_read(tmp_path: Path) -> None:
    found = read_map(npy_pair(tmp_path / "maps"))
    assert (found.format, found.ids.tolist(), found.n_target) == ("speculators", ASCENDING, WIDTH)


@pytest.mark.parametrize("text", ["17\n3\n4\n", "\ufeff17\n3\n4\n", "17\r\n3\r\n4"])
def test_text_lists(text: str, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(text, encoding="utf-8")
    assert read_map(tmp_path / "ids.txt").ids.tolist() == [17, 3, 4]


# --- offsets or ids ----------------------------------------------------------------------------------------


def test_a_mask_settles_what_the_numbers_do_not(tmp_path: Path) -> None:
    # ids 0, 2, 5 as they are; 0, 3, 7 if the numbers are offsets
    values = torch.tensor([0, 2, 5])
    for ids, spelling in (([0, 2, 5], "absolute"), ([0, 3, 7], "offsets")):
        path = torch_file(tmp_path / f"{spelling}.pt", {"d2t": values, "t2d": mask(ids)})
        found = read_map(path)
        assert (found.ids.tolist(), found.spelling) == (ids, spelling)


def test_two_possible_readings_are_refused_until_told(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "d2t.pt", torch.tensor([0, 2, 5]))
    with pytest.raises(VocabError, match="cannot be told") as caught:
        read_map(path)
    assert all(word in str(caught.value) for word in ("t2d", "--read-as", "--n-target"))
    assert read_map(path, Reading(read_as="absolute")).ids.tolist() == [0, 2, 5]
    assert read_map(path, Reading(read_as="offsets")).ids.tolist() == [0, 3, 7]
    # 7 is beyond a head of six rows, so that only one reading is left
    assert read_map(path, Reading(n_target=6)).ids.tolist() == [0, 2, 5]


def test_zeros_are_never_taken_for_the_identity_without_proof(tmp_path: Path) -> None:
    zeros = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(VocabError, match="cannot be told") as caught:
        read_map(torch_file(tmp_path / "d2t.pt", zeros))
    assert "never set" in str(caught.value)
    with pytest.raises(VocabError, match="cannot be told"):
        read_map(eagle3(tmp_path / "d", range(4), values=zeros, has_mask=False))
    assert read_map(eagle3(tmp_path / "e", range(4), values=zeros)).ids.tolist() == [0, 1, 2, 3]
    assert read_map(tmp_path / "d2t.pt", Reading(read_as="offsets")).ids.tolist() == [0, 1, 2, 3]


def test_a_counting_map_is_refused(tmp_path: Path) -> None:
    # written by programs that took d2t for ids: engines would read 0, 2, 4, ...
    with pytest.raises(VocabError, match="cannot be told"):
        read_map(eagle3(tmp_path / "d", range(4), values=torch.arange(4), has_mask=False))


def test_ids_under_the_name_of_offsets_are_a_trap(tmp_path: Path) -> None:
    found = read_map(eagle3(tmp_path / "d", values=torch.tensor(RANKED)))
    assert (found.ids.tolist(), found.spelling) == (RANKED, "absolute")
    assert any("add the row" in trap for trap in found.traps)


def test_an_unset_or_foreign_mask_is_refused(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", {"d2t": offsets(RANKED), "t2d": torch.zeros(WIDTH, dtype=torch.bool)})
    with pytest.raises(ArtifactError, match="mask"):
        read_map(path)
    path = torch_file(tmp_path / "b.pt", {"d2t": offsets(RANKED), "t2d": mask([1, 2, 3, 4, 5, 6, 7, 8])})
    with pytest.raises(VocabError, match="no map") as caught:
        read_map(path)
    assert "t2d marks 8 ids" in str(caught.value)
    path = torch_file(tmp_path / "c.pt", {"d2t": offsets(RANKED), "t2d": mask(RANKED).long()})
    with pytest.raises(ArtifactError, match="mask"):
        read_map(path)


def test_offsets_in_a_gguf_file_are_named(tmp_path: Path) -> None:
    path = gguf_drafter(tmp_path / "d.gguf", values=offsets(RANKED).tolist())
    with pytest.raises(VocabError, match=r"llama\.cpp would take them as ids") as caught:
        read_map(path)
    assert "--read-as offsets" in str(caught.value)
    found = read_map(path, Reading(read_as="offsets"))
    assert found.ids.tolist() == RANKED
    assert any("offsets" in trap for trap in found.traps)


def test_a_narrow_gguf_map_is_a_trap(tmp_path: Path) -> None:
    found = read_map(gguf_drafter(tmp_path / "d.gguf", dtype=np.int32))
    assert found.ids.tolist() == RANKED
    assert any("int64" in trap for trap in found.traps)


def test_read_as_is_not_ignored_where_the_format_says_it(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "map.pt", list(RANKED))
    assert read_map(path, Reading(read_as="absolute")).ids.tolist() == RANKED
    with pytest.raises(InputError, match="cannot be read as offsets"):
        read_map(path, Reading(read_as="offsets"))


# --- maps that do not belong to their files ------------------------------------------------------------------


def test_a_lost_map_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "d" / "config.json", eagle3_config(8))
    save_file(drafter_weights(8), tmp_path / "d" / "model.safetensors")
    with pytest.raises(ArtifactError, match="lost its map") as caught:
        read_map(tmp_path / "d")
    assert "row i for token i" in str(caught.value)


def test_a_whole_head_needs_no_map(tmp_path: Path) -> None:
    write_json(tmp_path / "d" / "config.json", eagle3_config(WIDTH))
    save_file(drafter_weights(WIDTH), tmp_path / "d" / "model.safetensors")
    assert read_map(tmp_path / "d").ids.tolist() == list(range(WIDTH))


@pytest.mark.parametrize("n_rows", [7, 9])
def test_a_map_of_another_head_is_refused(n_rows: int, tmp_path: Path) -> None:
    path = eagle3(tmp_path / "d", config=eagle3_config(n_rows))
    with pytest.raises(ArtifactError, match="does not belong to its head"):
        read_map(path)
    with pytest.raises(ArtifactError, match=r"output\.weight"):
        read_map(gguf_drafter(tmp_path / "d.gguf", n_rows=n_rows))


def test_a_medusa_config_that_disagrees(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="truncated_vocab_size 5"):
        read_map(medusa(tmp_path / "a", truncated=5))
    assert any("unread" in trap for trap in read_map(medusa(tmp_path / "b", truncated=None)).traps)


def test_two_claims_on_one_path_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.safetensors"
    save_file({"d2t": offsets(RANKED), "token_map": torch.tensor(RANKED)}, path)
    with pytest.raises(ArtifactError, match="two formats"):
        recognise(path)


def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    path = eagle3(tmp_path / "d", layout="sharded")
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["d2t"] = "../../etc/passwd"
    write_json(path / "model.safetensors.index.json", index)
    with pytest.raises(ArtifactError, match="outside this directory"):
        read_map(path)


def test_counts_are_no_choice(tmp_path: Path) -> None:
    (tmp_path / "counts.json").write_text('{"1": 5}', encoding="utf-8")
    assert recognise(tmp_path / "counts.json") is None
    (tmp_path / "counts.txt").write_text("1\t5\n2\t3\n", encoding="utf-8")
    assert recognise(tmp_path / "counts.txt") is None
    with pytest.raises(InputError, match="no token map"):
        read_map(tmp_path / "counts.txt")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_map(tmp_path / "nothing")


@pytest.mark.parametrize("n_target", [0, -1, 1 << 30])
def test_an_impossible_width_is_refused(n_target: int) -> None:
    with pytest.raises(InputError, match="rows"):
        Reading(n_target=n_target)


def test_a_head_that_is_too_narrow_for_the_map(tmp_path: Path) -> None:
    for name, (file_name, _, make) in GOOD.items():
        (tmp_path / name).mkdir()
        with pytest.raises(OutlexError):
            read_map(make(tmp_path / name / file_name), Reading(n_target=20))


def test_rows_out_of_order_are_a_trap_in_speculators_alone(tmp_path: Path) -> None:
    config = speculators_config(len(RANKED))
    assert any("order" in trap for trap in read_map(eagle3(tmp_path / "a", config=config)).traps)
    assert any("order" in trap for trap in read_map(npy_pair(tmp_path / "b", RANKED)).traps)
    assert read_map(npy_pair(tmp_path / "c")).traps == ()
    assert read_map(eagle3(tmp_path / "d")).traps == ()
