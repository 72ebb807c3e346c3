"""`outlex export`: what is written for vLLM is whole, says what it is, and gives the drafter's own logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_builders import json_of, run
from fitted_heads import fitted
from proposal_builders import sparse_kernel
from tiny_models import byte_tokenizer, tiny_pair
from transformers import AutoModelForCausalLM, AutoTokenizer

from outlex.cli.export import ExportName
from outlex.drafters import StoredProposal, TrimmedDrafter
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.formats import read_map
from outlex.formats.exporting import ExportRequest
from outlex.formats.exports import EXPORTS
from outlex.formats.vllm_drafter import ARCHITECTURES, ARTIFACT
from outlex.formats.vllm_tli import cut_tokenizer
from outlex.vllm_plugin.draft_head import fitted_weights, read_served, what_is_void


def exported(trimmed: Path, output: Path, *more: object, to: str = "vllm-plugin") -> Any:
    return json_of(run("export", trimmed, "--to", to, "-o", output, *more, "--json"))


def served(directory: Path, *, n_target: int = 330, tp: int = 1, pp: int = 1) -> Any:
    return read_served(str(directory), n_target=n_target, tensor_parallel_size=tp, pipeline_parallel_size=pp)


@pytest.fixture
def preview_directory(tmp_path: Path) -> Path:
    """The preview of the tiny drafter, and the drafter, exported."""
    drafter = tiny_pair()[1]
    drafter.model.save_pretrained(tmp_path / "drafter")
    byte_tokenizer().save_pretrained(tmp_path / "drafter")
    fitted().save(tmp_path / "preview")
    exported(tmp_path / "preview", tmp_path / "out", "--drafter", tmp_path / "drafter")
    return tmp_path / "out"


def test_the_option_names_every_export() -> None:
    assert {name.value for name in ExportName} >= {"vllm-plugin", "vllm-tli"}
    assert {name.value for name in ExportName} == set(EXPORTS)


# --- vllm-plugin --------------------------------------------------------------------------------------------


def test_a_trimmed_drafter_comes_back(models: Path, trimmed: Path, tmp_path: Path) -> None:
    result = exported(trimmed, tmp_path / "out")
    assert (result["n_draft"], result["n_target"], result["proposal"]) == (290, 330, "tli")
    assert json.loads(result["usage"].split("'")[1])["model"] == str(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["OutlexLlamaForCausalLM"]
    assert config["vocab_size"] == 330
    found, before = read_map(tmp_path / "out"), TrimmedDrafter.load(trimmed)
    assert (found.format, found.n_target) == ("vllm-plugin", 330)
    assert torch.equal(found.ids, before.vocab.draft_to_target)
    assert torch.equal(served(tmp_path / "out").linear.weight, before.linear.weight)
    # the weights are the drafter's, not a copy, and the rest is what transformers needs
    ours, theirs = (place / "model.safetensors" for place in (tmp_path / "out", models / "drafter"))
    assert ours.samefile(theirs)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert "vllm-plugin" in run("inspect", tmp_path / "out").stdout


def test_a_wider_target_is_written_down(trimmed: Path, tmp_path: Path) -> None:
    assert exported(trimmed, tmp_path / "out", "--n-target", 384)["n_target"] == 384
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 384


def test_a_preview_comes_back(preview_directory: Path) -> None:
    assert served(preview_directory, n_target=260).name == fitted().name
    with pytest.raises(ArtifactError, match="no list of tokens"):
        read_map(preview_directory)


@pytest.mark.parametrize("method", ["in-context", "both"])
def test_heads_that_follow_the_request_are_refused(method: str, tmp_path: Path) -> None:
    fitted(method).save(tmp_path / "a")
    with pytest.raises(InputError, match="--method preview"):
        EXPORTS["vllm-plugin"](ExportRequest(artifact=tmp_path / "a", output=tmp_path / "out"))
    fitted(method).save(tmp_path / "model" / ARTIFACT)
    with pytest.raises(InputError, match="--method preview"):
        served(tmp_path / "model", n_target=260)


def test_nothing_is_written_for_another_drafter(models: Path, trimmed: Path, tmp_path: Path) -> None:
    for drafter, words in (("other", "other weights"), ("german", "another tokenizer")):
        result = run("export", trimmed, "--to", "vllm-plugin", "-o", tmp_path / "o", "--drafter", models / drafter)
        assert result.exit_code == 1
        assert words in result.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["my-eagle-16k", "EAGLE3", "dflash", "a/dspark/b"])
def test_names_that_vllm_reads_a_method_into(name: str, trimmed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another directory"):
        EXPORTS["vllm-plugin"](ExportRequest(artifact=trimmed, output=tmp_path / name))


def test_other_families_and_quantised_weights_are_refused(models: Path, trimmed: Path, tmp_path: Path) -> None:
    import shutil

    for changes in ({"architectures": ["PhiForCausalLM"]}, {"quantization_config": {"quant_method": "awq"}}):
        place = tmp_path / next(iter(changes))
        shutil.copytree(models / "drafter", place)
        config = json.loads((place / "config.json").read_text()) | changes
        (place / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="LlamaForCausalLM"):
            EXPORTS["vllm-plugin"](ExportRequest(artifact=trimmed, output=tmp_path / "o", drafter=str(place)))


def test_bad_input(trimmed: Path, tmp_path: Path) -> None:
    assert run("export", tmp_path / "none", "--to", "vllm-plugin", "-o", tmp_path / "o").exit_code == 2
    assert run("export", trimmed, "--to", "vllm-plugin", "-o", trimmed).exit_code == 1  # never replaced
    with pytest.raises(InputError, match="vocab_size"):
        ExportRequest(artifact=trimmed, output=tmp_path, n_target=0)


# --- what the plugin refuses --------------------------------------------------------------------------------


def test_what_cannot_be_served(trimmed: Path, preview_directory: Path, tmp_path: Path) -> None:
    exported(trimmed, tmp_path / "out2")
    assert served(tmp_path / "out2", tp=4).n_draft == 290
    with pytest.raises(InputError, match="tensor parallelism"):
        served(tmp_path / "out2", pp=2)
    with pytest.raises(InputError, match="outlex trim"):
        served(preview_directory, n_target=260, tp=2)
    with pytest.raises(ArtifactError, match="outlex export"):
        served(trimmed)


def test_a_fitted_proposal_needs_its_target_and_probabilistic_drafts(trimmed: Path, tmp_path: Path) -> None:
    plain = TrimmedDrafter.load(trimmed)
    ids = plain.vocab.draft_to_target.tolist()
    stored = StoredProposal(proposal=sparse_kernel(ids, 330), n_target=330, provenance={"reason": "a test"})
    replace(plain, stored=stored).save(tmp_path / "fitted")
    result = exported(tmp_path / "fitted", tmp_path / "out")
    assert result["proposal"] == "sparse-kernel"
    assert any("greedy" in note for note in result["notes"])
    artifact = served(tmp_path / "out")
    assert "probabilistic" in str(what_is_void(artifact, draft_sample_method="greedy"))
    assert what_is_void(artifact, draft_sample_method="probabilistic") is None
    assert what_is_void(plain, draft_sample_method="greedy") is None
    with pytest.raises(MismatchError, match="outlex fit"):
        served(tmp_path / "out", n_target=384)
    with pytest.raises(InputError, match="vllm-plugin"):
        EXPORTS["vllm-tli"](ExportRequest(artifact=tmp_path / "fitted", output=tmp_path / "o"))


def test_a_drafter_for_another_tokenizer_is_refused_whatever_its_proposal(trimmed: Path, tmp_path: Path) -> None:
    # drafts would be other tokens than vLLM takes them for: the law holds, and next to nothing is accepted
    stored = StoredProposal(proposal=None, n_target=330, target_tokenizer="f" * 64)
    replace(TrimmedDrafter.load(trimmed), stored=stored).save(tmp_path / "model" / ARTIFACT)
    with pytest.raises(MismatchError, match="target with another") as refused:
        served(tmp_path / "model")
    assert "use_heterogeneous_vocab" in str(refused.value)
    with pytest.raises(MismatchError, match="target with another"):
        EXPORTS["vllm-plugin"](ExportRequest(artifact=tmp_path / "model" / ARTIFACT, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_embeddings_are_fitted_to_the_target() -> None:
    names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    weights = [(name, torch.ones(3, 2)) for name in names]
    wider = dict(fitted_weights(weights, n_rows=5, needs_head=False))
    assert list(wider) == list(names[:2])
    assert wider[names[0]].tolist() == [[1.0, 1.0]] * 3 + [[0.0, 0.0]] * 2
    assert wider[names[1]].shape == (3, 2)
    narrower = dict(fitted_weights(weights, n_rows=2, needs_head=True))
    assert narrower["lm_head.weight"].shape == narrower[names[0]].shape == (2, 2)


def test_the_class_names_are_the_ones_registered() -> None:
    source = (Path(__file__).resolve().parents[2] / "src" / "outlex" / "vllm_plugin" / "models.py").read_text()
    assert [name for name in ARCHITECTURES.values() if f"class {name}(_OutlexDraft, " not in source] == []


# --- vllm-tli -----------------------------------------------------------------------------------------------


def test_a_drafter_with_a_vocabulary_of_its_own(models: Path, trimmed: Path, tmp_path: Path) -> None:
    result = exported(trimmed, tmp_path / "out", to="vllm-tli")
    assert json.loads(result["usage"].split("'")[1])["use_heterogeneous_vocab"] is True
    ids = TrimmedDrafter.load(trimmed).vocab.draft_to_target
    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (tmp_path / "out", models / "drafter"))
    # vLLM matches tokens by their spelling: the same map must come out of that
    spelled = ours.get_vocab()
    whole = theirs.get_vocab()
    assert sorted(spelled.values()) == list(range(len(ids)))
    assert all(whole[piece] == int(ids[index]) for piece, index in spelled.items())
    assert int(ids[ours.eos_token_id]) == theirs.eos_token_id
    small, whole_model = (AutoModelForCausalLM.from_pretrained(p) for p in (tmp_path / "out", models / "drafter"))
    text = torch.arange(5, 25).unsqueeze(0)
    with torch.inference_mode():
        got, wanted = small(text).logits, whole_model(ids[text]).logits[..., ids]
    assert small.config.vocab_size == len(ids)
    torch.testing.assert_close(got, wanted)


def test_merges_stay_where_all_three_parts_do() -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4}, "merges": ["a b", ["ab", "c"]]}
    tokenizer = {"model": model, "added_tokens": [{"id": 5, "content": "<end>"}], "post_processor": {}}
    cut = cut_tokenizer(tokenizer, torch.tensor([5, 2, 1, 0]))
    assert cut["model"]["vocab"] == {"ab": 1, "b": 2, "a": 3}
    assert cut["model"]["merges"] == ["a b"]
    assert cut["added_tokens"] == [{"id": 0, "content": "<end>"}]
    with pytest.raises(ArtifactError, match="belong together"):
        cut_tokenizer(tokenizer, torch.tensor([0, 9]))
    with pytest.raises(InputError, match="vllm-plugin"):
        cut_tokenizer({"model": {"type": "Unigram", "vocab": []}}, torch.tensor([0]))
