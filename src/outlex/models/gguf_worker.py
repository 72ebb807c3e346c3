"""The process that unpacks one GGUF file. `outlex.models.gguf` starts it; it is not imported by anything
else.

It writes one JSON object a line to stdout: `{"stage": TEXT}` when a stage begins, `{"warning": TEXT}`, and
`{"error": {...}}` for a failure, with the fields of an `OutlexError`. Whatever the libraries print goes to
stderr, shown only if the process dies.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from outlex.errors import ArtifactError, ModelError, OutlexError
from outlex.models.gguf_header import GgufHeader, damaged_gguf, read_header, write_without_tokenizer
from outlex.models.gguf_tokenizer import end_ids, repair_tokenizer

__all__ = ["convert", "main"]


def main() -> None:
    """Run the job in the last argument (JSON: gguf, out, dtype) and exit with 1 if it failed."""
    job = json.loads(sys.argv[2])
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints must not garble the channel

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    try:
        warning = convert(
            Path(job["gguf"]),
            out=Path(job["out"]),
            dtype=getattr(torch, job["dtype"]),
            on_stage=lambda stage: say({"stage": stage}),
        )
        if warning is not None:
            say({"warning": warning})
    except OutlexError as error:
        fields = {
            "what": error.what,
            "got": error.got,
            "expected": error.expected,
            "next_step": error.next_step,
        }
        texts = {name: None if value is None else str(value) for name, value in fields.items()}
        say({"error": {"kind": type(error).__name__, **texts}})
        sys.exit(1)


def convert(path: Path, *, out: Path, dtype: torch.dtype, on_stage: Callable[[str], None]) -> str | None:
    """Write a transformers directory into the existing folder `out`.

    Returns:
        A warning if the tokenizer may differ from the original, else None.

    Raises:
        ArtifactError: the file is truncated or contradicts itself, or the disk is full.
        ModelError: transformers has no loader for its kind of model or tokenizer.
    """
    on_stage("reading the header")
    header = read_header(path)
    _check_one_file(path, header=header)
    # the copy without tokenizer lies beside the result for a while
    _check_space(out, n_bytes=header.n_weights * dtype.itemsize + path.stat().st_size)
    try:
        on_stage("building the tokenizer")
        warning = _convert_tokenizer(path, out=out, header=header)
        on_stage(f"unpacking {header.n_weights / 1e6:.0f} million weights")
        bare = out / "bare.gguf"
        write_without_tokenizer(path, header, to=bare)
        model, missing = _load_weights(bare, header=header, dtype=dtype)
        bare.unlink()
        if missing:
            # transformers has filled them with random numbers
            raise damaged_gguf(path, f"no weights for {', '.join(missing[:3])}")
        on_stage("writing safetensors")
        model.save_pretrained(out)
    except OutlexError:
        raise
    except Exception as error:
        if "No space left" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(out, needed="the whole checkpoint") from error
        raise ModelError(
            "transformers cannot load this GGUF file",
            got=f"{path} ({header.metadata['general.architecture']}): {type(error).__name__}: {error}",
            expected="an architecture and tokenizer that transformers has a GGUF loader for",
            next_step="load the original checkpoint instead, or try a newer transformers",
        ) from error
    _record(path, out=out, dtype=dtype)
    for written in out.iterdir():
        with written.open("rb+") as stream:
            os.fsync(stream.fileno())
    return warning


def _check_one_file(path: Path, *, header: GgufHeader) -> None:
    n_files = int(header.metadata.get("split.count", 1))
    if n_files > 1:
        raise ModelError(
            "this GGUF file is one piece of several",
            got=f"{path}: one of {n_files} pieces",
            expected="one file with all weights",
            next_step="join the pieces with llama.cpp's llama-gguf-split --merge",
        )


def _convert_tokenizer(path: Path, *, out: Path, header: GgufHeader) -> str | None:
    """Write the tokenizer's files; returns a warning if it may differ from the original."""
    from transformers import PreTrainedTokenizerFast

    # not AutoTokenizer, which would first build the config, slowly, from the whole file
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    warning = repair_tokenizer(tokenizer, metadata=header.metadata)
    tokenizer.save_pretrained(out)
    return warning


def _load_weights(bare: Path, *, header: GgufHeader, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model, from the copy without tokenizer, with the original's stop tokens; missing weights' names."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GgufConfig

    metadata = header.metadata
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    config = AutoConfig.from_pretrained(bare.parent, gguf_file=bare.name, local_files_only=True)
    # transformers counts the tokens where the file has no number of its own, and the copy has no tokens
    architecture = metadata["general.architecture"]
    config.get_text_config().vocab_size = int(metadata.get(f"{architecture}.vocab_size", len(tokens)))
    model, info = AutoModelForCausalLM.from_pretrained(
        bare.parent,
        config=config,
        gguf_file=bare.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
        output_loading_info=True,
        local_files_only=True,
    )
    ids = end_ids(metadata, tokens=tokens, token_types=metadata.get("tokenizer.ggml.token_type", []))
    model.generation_config = GenerationConfig(
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=ids or None,
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
    )
    return model, sorted(info["missing_keys"])


def _record(path: Path, *, out: Path, dtype: torch.dtype) -> None:
    from importlib.metadata import version

    record = {
        "made_from": path.name,
        "n_bytes": path.stat().st_size,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in ("gguf", "torch", "transformers")},
    }
    (out / "outlex_conversion.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _check_space(out: Path, *, n_bytes: int) -> None:
    if shutil.disk_usage(out).free < n_bytes:
        raise _no_space(out, needed=f"{n_bytes / 1e6:.0f} MB")


def _no_space(out: Path, *, needed: str) -> ArtifactError:
    return ArtifactError(
        "no space left for the converted model",
        got=f"{shutil.disk_usage(out).free / 1e6:.0f} MB free in {out.parent}",
        expected=f"room for {needed}",
        next_step="free some space, or set OUTLEX_CACHE (or cache_dir=) to a folder on a larger disk",
    )
