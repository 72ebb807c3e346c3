"""GGUF files: read, refused when damaged, converted once in a process of their own, tokenizer repaired."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import MERGES, N_DIM, TOKENS, TYPES, tiny_weights, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from outlex.errors import ArtifactError, InputError, ModelError
from outlex.models import LanguageModel, gguf, load_model
from outlex.models.gguf import convert_gguf
from outlex.models.gguf_header import read_header, write_without_tokenizer
from outlex.models.gguf_tokenizer import end_ids, repair_tokenizer
from outlex.models.gguf_worker import convert

pytest.importorskip("gguf")
pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One file and its conversion, for the tests that only look: a conversion takes seconds."""
    folder = tmp_path_factory.mktemp("gguf")
    path = write_gguf(folder / "tiny.gguf")
    loaded = load_model(path, dtype="float32", device="cpu", cache_dir=folder / "cache", progress=False)
    return {"path": path, "cache": folder / "cache", "loaded": loaded}


@pytest.fixture(scope="module")
def loaded(shared: dict[str, Any]) -> LanguageModel:
    model = shared["loaded"]
    assert isinstance(model, LanguageModel)
    return model


def test_weights_config_and_stop_tokens_survive(shared: dict[str, Any], loaded: LanguageModel) -> None:
    weights = tiny_weights()
    tensors = dict(loaded.model.named_parameters())
    assert np.array_equal(tensors["model.embed_tokens.weight"].numpy(), weights["token_embd.weight"])
    down = tensors["model.layers.1.mlp.down_proj.weight"].numpy()
    assert np.array_equal(down, weights["blk.1.ffn_down.weight"])
    assert (loaded.name, loaded.source) == ("tiny", str(shared["path"]))
    assert (loaded.n_rows, loaded.hidden_size, loaded.max_length) == (len(TOKENS), N_DIM, 128)
    assert loaded.head_bytes == len(TOKENS) * N_DIM * 4
    # the file names only <|im_end|>; <|endoftext|> ends a text as well
    assert loaded.stop_ids == {0, 2}
    assert len(loaded.tokenizer) == len(TOKENS)


def test_the_tokenizer_splits_as_the_file_says(loaded: LanguageModel) -> None:
    pieces = loaded.tokenizer.convert_ids_to_tokens(loaded.encode("  12<|im_start|>é<think>"))
    # GPT-2's rule would leave one space with the digit: "Ġ", "Ġ", "1", "2"
    assert pieces == ["ĠĠ", "1", "2", "<|im_start|>", "Ã", "©", "<think>"]
    assert loaded.decode(loaded.encode("a<|im_end|>b<think>")) == "ab<think>"
    assert loaded.encode_chat([{"role": "user", "content": "x"}])[0] == 1


@settings(max_examples=50)
@given(text=st.text(max_size=30))
def test_text_comes_back(loaded: LanguageModel, text: str) -> None:
    assert loaded.decode(loaded.encode(text), skip_special=False) == text


def test_a_second_load_converts_nothing(shared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("a finished conversion was made again")

    monkeypatch.setattr(gguf, "_run_worker", fail)
    moved = shared["path"].with_name("tiny.gguf")
    os.utime(moved, ns=(7, 7))  # the stamp no longer holds, the contents are the same
    again = load_model(moved, dtype="float32", device="cpu", cache_dir=shared["cache"], progress=False)
    assert again.stop_ids == {0, 2}
    assert [path.name[0] for path in (shared["cache"] / "converted").iterdir()] == ["t"]


def test_a_damaged_conversion_names_what_to_delete(shared: dict[str, Any], tmp_path: Path) -> None:
    cache = Path(shutil.copytree(shared["cache"], tmp_path / "cache"))
    directory = next((cache / "converted").iterdir())
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        load_model(shared["path"], dtype="float32", device="cpu", cache_dir=cache, progress=False)
    assert f"delete {directory}" in str(caught.value)


def test_the_copy_without_tokenizer_has_the_same_weights(tmp_path: Path) -> None:
    from gguf import GGUFReader

    path = write_gguf(tmp_path / "a.gguf")
    header = read_header(path)
    assert header.metadata["tokenizer.ggml.tokens"] == TOKENS
    assert header.metadata["tokenizer.ggml.token_type"] == TYPES
    assert header.metadata["tokenizer.ggml.merges"] == MERGES
    assert header.metadata["llama.block_count"] == 2
    assert header.n_weights == sum(weight.size for weight in tiny_weights().values())
    write_without_tokenizer(path, header, to=tmp_path / "b.gguf")
    whole, bare = GGUFReader(path), GGUFReader(tmp_path / "b.gguf")
    gone = {f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges")}
    assert {key for key in whole.fields if key not in bare.fields} == gone
    assert [(t.name, t.data.tobytes()) for t in bare.tensors] == [(t.name, t.data.tobytes()) for t in whole.tensors]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ArtifactError, match="copy or download it again"):
        read_header(path)


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_header_never_gives_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.gguf"
    write_gguf(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(ArtifactError):  # and no error if the byte belongs to a spelling
        read_header(path)


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<II", 4, 0),  # weights aligned to nothing
        struct.pack("<II", 5, 0xFFFFFFF0),  # to less than nothing
        struct.pack("<IQ", 8, 4) + b"many",  # to a word
        struct.pack("<IIQI", 9, 4, 1, 32),  # to a list
        struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000,  # lists in lists, deeper than Python's stack
    ],
    ids=["zero", "negative", "text", "list", "nested"],
)
def test_an_alignment_that_is_none(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "a.gguf"
    key = b"general.alignment"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + value)
    with pytest.raises(ArtifactError, match="copy or download it again"):
        read_header(path)


def assert_nothing_left(out_dir: Path) -> None:
    assert not out_dir.exists() or list(out_dir.iterdir()) == []


def test_errors_of_the_worker_come_back_whole(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="truncated or damaged") as caught:
        convert_gguf(path, out_dir=tmp_path / "out", dtype=torch.float32, progress=False)
    assert str(path) in str(caught.value.got)
    assert_nothing_left(tmp_path / "out")


def test_an_architecture_that_transformers_cannot_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", architecture="nonesuch")
    with pytest.raises(ModelError, match="nonesuch") as caught:
        convert(path, out=tmp_path, dtype=torch.float32, on_stage=lambda stage: None)
    assert "original checkpoint" in str(caught.value)


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    weights = tiny_weights()
    del weights["blk.1.ffn_up.weight"]
    path = write_gguf(tmp_path / "a.gguf", weights=weights)
    with pytest.raises(ArtifactError, match="no weights for model"):
        convert(path, out=tmp_path, dtype=torch.float32, on_stage=lambda stage: None)


def test_one_piece_of_several(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", more_keys={"split.count": 3})
    with pytest.raises(ModelError, match="llama-gguf-split --merge"):
        convert(path, out=tmp_path, dtype=torch.float32, on_stage=lambda stage: None)


@pytest.mark.parametrize(
    ("boot", "what", "remedy"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "memory ran out", "close other programs"),
        ("raise SystemError('boom')", "SystemError: boom", "newer transformers"),
    ],
)
def test_a_worker_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str, what: str, remedy: str) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    monkeypatch.setattr(gguf, "_BOOT", boot)
    with pytest.raises(ModelError, match=what) as caught:
        convert_gguf(path, out_dir=tmp_path / "out", dtype=torch.float32, progress=False)
    assert remedy in str(caught.value)
    assert_nothing_left(tmp_path / "out")


def test_a_rule_that_is_not_known_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    boot = """print('{"stage": "one"}'); print('{"warning": "tokens may differ"}')"""
    monkeypatch.setattr(gguf, "_BOOT", boot)
    convert_gguf(path, out_dir=tmp_path / "out", dtype=torch.float32)
    assert capfd.readouterr().err.splitlines() == ["converting a: one", "a: tokens may differ"]


def test_files_that_are_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content in (b"", b"PK\x03\x04 a zip"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="not a GGUF file"):
            load_model(path, cache_dir=tmp_path, progress=False)
    with pytest.raises(ArtifactError, match="check the path"):
        convert_gguf(tmp_path / "none.gguf", out_dir=tmp_path / "out", dtype=torch.float32)


def test_dtypes_that_a_checkpoint_cannot_have(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    with pytest.raises(InputError, match="use float32"):
        convert_gguf(path, out_dir=tmp_path / "out", dtype=torch.float64)


def test_without_the_packages_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("gguf", "accelerate") else real(name))
    with pytest.raises(ModelError, match=r"pip install 'outlex\[gguf\]'"):
        convert_gguf(path, out_dir=tmp_path / "out", dtype=torch.float32)


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ArtifactError, match="OUTLEX_CACHE"):
        convert(path, out=tmp_path, dtype=torch.float32, on_stage=lambda stage: None)


@pytest.mark.parametrize(
    ("rule", "warned", "first"),
    [
        ("smollm", False, ["ĠĠ", "1"]),
        ("starcoder", False, ["ĠĠ", "1"]),
        ("gpt-2", False, ["Ġ", "Ġ"]),
        ("qwen2", False, ["Ġ", "Ġ"]),
        ("invented", True, ["Ġ", "Ġ"]),
    ],
)
def test_rules_for_splitting_text(tmp_path: Path, rule: str, warned: bool, first: list[str]) -> None:
    from transformers import PreTrainedTokenizerFast

    path = write_gguf(tmp_path / "a.gguf", rule=rule)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path, gguf_file=path.name)
    warning = repair_tokenizer(tokenizer, metadata=read_header(path).metadata)
    assert (warning is not None) == warned
    if warning is not None:
        assert "'invented'" in warning
    assert tokenizer.tokenize("  12")[:2] == first
    # Qwen's tokenizers compose accents, which GGUF does not say
    assert (tokenizer.tokenize("e\u0301") == tokenizer.tokenize("\u00e9")) == (rule == "qwen2")


def test_end_tokens_come_from_the_file_and_from_their_names() -> None:
    metadata = {"tokenizer.ggml.eos_token_id": 3, "tokenizer.ggml.eot_token_id": 1}
    tokens = ["<|endoftext|>", "<x>", "</s>", "<y>", "<|im_end|>"]
    assert end_ids(metadata, tokens=tokens, token_types=[3, 3, 1, 3, 3]) == [3, 1, 0, 4]
    assert end_ids({}, tokens=[], token_types=[]) == []


def test_the_conversion_records_where_it_comes_from(shared: dict[str, Any]) -> None:
    directory = next((shared["cache"] / "converted").iterdir())
    record = json.loads((directory / "outlex_conversion.json").read_text())
    assert record["made_from"] == "tiny.gguf"
    assert record["n_bytes"] == shared["path"].stat().st_size
    assert set(record["versions"]) == {"gguf", "torch", "transformers"}
    assert not list(directory.glob("*.gguf"))


@pytest.mark.real_model
def test_the_real_smol135(smol135: LanguageModel) -> None:
    assert (smol135.name, smol135.source, smol135.n_rows) == ("smol135", "smol135", 49_152)
    assert smol135.n_bytes == 134_515_008 * 4
    assert 2 in smol135.stop_ids
    text = "def f(n):\n  12 <|im_start|> naïve 你好 🙂\n\n\n    return 345"
    assert smol135.decode(smol135.encode(text), skip_special=False) == text
    assert smol135.tokenizer.tokenize("  12") == ["ĠĠ", "1", "2"]
    ids = smol135.encode_chat([{"role": "user", "content": "What is the capital of France?"}])
    n_prompt = len(ids)
    with torch.inference_mode():
        for _ in range(12):
            ids.append(int(smol135.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in smol135.stop_ids:
                break
    assert "Paris" in smol135.decode(ids[n_prompt:])
