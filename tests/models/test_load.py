"""`load_model` on local checkpoints: what it gives, and one clear error for each thing that can be wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import N_ROWS, edit_json, save_model, save_tiny_checkpoint, save_tokenizer, tiny_config
from safetensors.torch import load_file, save_file

from outlex.errors import ArtifactError, DownloadError, InputError, ModelError, OutlexError
from outlex.models import load_model
from outlex.models.options import resolve_device, resolve_dtype


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny Llama checkpoint that the test may damage."""
    return save_tiny_checkpoint(tmp_path / "tiny")


def load(source: Path | str, **options: Any) -> Any:
    return load_model(source, **{"dtype": "float32", "device": "cpu", "progress": False, **options})


def assert_refused(source: Path | str, kind: type[OutlexError], what: str, remedy: str) -> OutlexError:
    with pytest.raises(kind, match=what) as caught:
        load(source)
    assert type(caught.value) is kind
    assert remedy in (caught.value.next_step or "")
    return caught.value


def test_a_local_checkpoint(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    assert (loaded.name, loaded.source) == ("tiny", str(checkpoint))
    assert (loaded.dtype, loaded.device) == (torch.float32, torch.device("cpu"))
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == "sdpa"
    saved = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(saved[name], p) for name, p in loaded.model.named_parameters())
    assert str(loaded).startswith("LanguageModel(name='tiny'")


def test_loading_is_silent_and_leaves_the_settings_of_transformers(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(checkpoint)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("asked", ["float64", "float32", "bf16", torch.float16])
def test_an_explicit_dtype_is_what_the_weights_have(checkpoint: Path, asked: Any) -> None:
    loaded = load(checkpoint, dtype=asked)
    assert {p.dtype for p in loaded.model.parameters()} == {loaded.dtype}
    assert loaded.dtype == resolve_dtype(asked, device=torch.device("cpu"))


def test_auto_dtype_follows_the_hardware() -> None:
    fast = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has_bf16 = any(fast.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if fast:
        wanted = torch.bfloat16 if has_bf16 else torch.float32
        assert resolve_dtype("auto", device=torch.device("cpu")) == wanted
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_threads_are_set_for_the_process(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    try:
        load(checkpoint, threads=before + 1)
        assert torch.get_num_threads() == before + 1
        load(checkpoint)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"dtype": "int8"}, "leave the option out"),
        ({"dtype": torch.int8}, "leave the option out"),
        ({"device": "abacus"}, "leave the option out"),
        ({"device": "meta"}, "cpu"),
        ({"device": "cuda:99"}, "device='cpu'"),
        ({"threads": 0}, "leave it out"),
        ({"threads": True}, "leave it out"),
        ({"threads": 1.5}, "leave it out"),
    ],
)
def test_options_that_cannot_be_used(checkpoint: Path, options: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        load(checkpoint, **options)
    assert remedy in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_on_a_machine_without_it(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="no such CUDA device"):
        load(checkpoint, device="cuda")


def test_names_that_nothing_has(tmp_path: Path) -> None:
    assert_refused("qwen5", ModelError, "no such model", "qwen05")
    assert_refused("smol-135", ModelError, "no such model", "did you mean smol135?")
    assert_refused(tmp_path / "nothing", ModelError, "no such model", "check the path")
    assert_refused("./some/where/else", ModelError, "no such model", "check the path")
    assert_refused(str(tmp_path / "nothing.gguf"), ModelError, "no such model", "check the path")
    assert_refused("", ModelError, "no such model", "check the path")
    (tmp_path / "model.bin").write_bytes(b"x")
    assert_refused(tmp_path / "model.bin", ModelError, "must be a GGUF file", "directory")


def test_a_hub_id_without_a_network_fails_at_once() -> None:
    # the test run has HF_HUB_OFFLINE=1
    error = assert_refused("nobody/nothing", DownloadError, "hub cannot be reached", "catalogue name")
    assert "HF_HUB_OFFLINE" in str(error)


def test_a_path_object_is_never_a_catalogue_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(Path("smol135"), ModelError, "no such model", "smol135")


def test_directories_that_are_not_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(empty, ArtifactError, "not a complete transformers checkpoint", "save_pretrained")
    (empty / "x.gguf").write_bytes(b"GGUF")
    assert_refused(empty, ModelError, "holds GGUF files", "the .gguf file itself")
    (checkpoint / "config.json").unlink()
    assert "no config.json" in str(assert_refused(checkpoint, ArtifactError, "not a complete", "missing files"))


def test_without_a_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    assert_refused(checkpoint, ArtifactError, "no tokenizer", "tokenizer.save_pretrained")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ['{"model_type": "lla', "[]", "", "\x00\xff"])
def test_broken_json(checkpoint: Path, name: str, text: str) -> None:
    (checkpoint / name).write_bytes(text.encode("latin-1"))
    assert name in str(assert_refused(checkpoint, ArtifactError, "cannot be read", "download it again"))


def test_a_config_with_impossible_values(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", hidden_size="many")
    assert_refused(checkpoint, ArtifactError, "config.json cannot be read", "download it again")
    edit_json(checkpoint / "config.json", model_type=None)
    assert_refused(checkpoint, ArtifactError, "no model_type", "download it again")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights(checkpoint: Path, keep: float) -> None:
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert_refused(checkpoint, ArtifactError, "model.safetensors cannot be read", "download it again")


def test_overwritten_weights(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert_refused(checkpoint, ArtifactError, "model.safetensors cannot be read", "download it again")


def test_missing_weights_are_not_made_up(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"], weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    error = assert_refused(checkpoint, ArtifactError, "2 weights of tiny are missing", "download")
    assert "lm_head.weight" in str(error)


def test_weights_of_another_shape_than_the_config_says(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", intermediate_size=64)
    assert_refused(checkpoint, ModelError, "transformers cannot load tiny", "checkpoint")


def test_shards(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in halves.items():
        save_file({n: weights[n] for n in members}, checkpoint / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: shard for shard, members in halves.items() for n in members}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load(checkpoint).model.lm_head.weight, weights["lm_head.weight"])
    (checkpoint / "b.safetensors").unlink()
    error = assert_refused(checkpoint, ArtifactError, "not a complete", "missing files")
    assert "1 of 2 weight files" in str(error)
    for text in ("{", "{}", '{"weight_map": []}'):
        (checkpoint / "model.safetensors.index.json").write_text(text)
        assert_refused(checkpoint, ArtifactError, "index.json cannot be read", "download")


def test_pickled_weights_are_not_read(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert_refused(checkpoint, ModelError, "unpickling can run any code", "safetensors")
    (checkpoint / "pytorch_model.bin").unlink()
    assert_refused(checkpoint, ArtifactError, "not a complete", "missing files")


def test_code_that_comes_with_a_model_is_never_run(checkpoint: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    (checkpoint / "modeling_trap.py").write_text(f"open({str(trap)!r}, 'w')\n")
    auto_map = {name: f"modeling_trap.{name}" for name in ("AutoConfig", "AutoModelForCausalLM")}
    edit_json(checkpoint / "config.json", auto_map=auto_map)
    edit_json(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_trap.T", None]})
    load(checkpoint)  # a known type: transformers' own class serves
    edit_json(checkpoint / "config.json", model_type="trap")
    assert_refused(checkpoint, ModelError, "never runs such code", "another model")
    edit_json(checkpoint / "config.json", auto_map=None)
    assert_refused(checkpoint, ModelError, "does not know the model type", "update transformers")
    assert not trap.exists()


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config

    T5Config(vocab_size=N_ROWS, d_model=16, num_layers=1, architectures=["T5Model"]).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert_refused(tmp_path, ModelError, "encoder-decoder", "causal model")


@pytest.mark.parametrize("architecture", ["LlamaModel", "LlamaForSequenceClassification"])
def test_a_model_without_an_lm_head_is_refused(checkpoint: Path, architecture: str) -> None:
    edit_json(checkpoint / "config.json", architectures=[architecture])
    assert_refused(checkpoint, ModelError, "no LM head", "causal version")


def test_a_quantised_checkpoint_names_the_missing_package(checkpoint: Path) -> None:
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    edit_json(checkpoint / "config.json", quantization_config=quantization)
    pytest.importorskip("accelerate")
    if "bitsandbytes" in sys.modules:
        pytest.skip("bitsandbytes is installed")
    error = assert_refused(checkpoint, ModelError, "transformers cannot load tiny", "install it")
    assert "bitsandbytes" in str(error)


def test_a_tokenizer_that_cannot_be_built(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").rename(checkpoint / "tokenizer.model")
    assert_refused(checkpoint, ModelError, "cannot build the tokenizer", "save_pretrained")


def test_another_family_with_tied_weights(tmp_path: Path) -> None:
    from transformers import Qwen2Config

    directory = tmp_path / "q"
    shape = tiny_config(tie_word_embeddings=True).to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = Qwen2Config(**{key: shape[key] for key in keys}, num_key_value_heads=2, tie_word_embeddings=True)
    save_model(directory, config)
    save_tokenizer(directory, chat_template=None)
    loaded = load(directory)
    embedding = loaded.model.get_input_embeddings().weight
    assert loaded.model.get_output_embeddings().weight.data_ptr() == embedding.data_ptr()
    assert loaded.n_bytes == sum(t.nbytes for t in load_file(directory / "model.safetensors").values())
    assert loaded.head_bytes == embedding.nbytes
    assert not loaded.is_quantized


def test_a_moved_copy_is_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    moved = shutil.move(checkpoint, tmp_path / "else where")
    assert load(moved).name == "else where"
