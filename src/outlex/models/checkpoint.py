"""Checks a transformers directory before the slow part: are the files there, can they be read, is it a text
generator.

transformers answers a missing or odd file in many ways: another class, an empty tokenizer, random weights
with a warning. Here each case gets one clear error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.errors import ArtifactError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["causal_config", "check_files", "damaged", "read_json"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.json")
_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_GENERATOR_MARKS = ("CausalLM", "LMHead", "ConditionalGeneration")
_INDEX = "model.safetensors.index.json"


def check_files(directory: Path) -> None:
    """Require config, tokenizer and all weight files.

    Raises:
        ArtifactError: one of them is missing.
        ModelError: the weights are there in a format that outlex does not load.
    """
    if not any(directory.iterdir()):
        raise _missing(directory, "no files at all")
    if not (directory / "config.json").is_file():
        if list(directory.glob("*.gguf")):
            raise ModelError(
                "this directory holds GGUF files, not a transformers checkpoint",
                got=directory,
                next_step="give the path of the .gguf file itself",
            )
        raise _missing(directory, "no config.json")
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        raise ArtifactError(
            "the checkpoint has no tokenizer",
            got=directory,
            expected=f"one of {', '.join(_TOKENIZER_FILES)}",
            next_step="save the tokenizer into the same directory (tokenizer.save_pretrained)",
        )
    if (directory / _INDEX).is_file():
        weight_map = read_json(directory / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise damaged(directory / _INDEX, "no weight_map")
        shards = sorted({str(name) for name in weight_map.values()})
        lost = [name for name in shards if not (directory / name).is_file()]
        if lost or not shards:
            raise _missing(directory, f"{len(lost)} of {len(shards)} weight files are missing ({', '.join(lost[:3])})")
    elif not (directory / "model.safetensors").is_file():
        if any((directory / name).is_file() for name in _PICKLED_WEIGHTS):
            raise ModelError(
                "the weights are pickled, and unpickling can run any code",
                got=directory,
                expected="model.safetensors",
                next_step="convert them once with transformers: save_pretrained writes safetensors",
            )
        raise _missing(directory, "no model.safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the checkpoint.

    Raises:
        ArtifactError: the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(value, dict):
        raise damaged(path, f"a JSON {type(value).__name__}, expected an object")
    return value


def causal_config(directory: Path, *, name: str) -> PreTrainedConfig:
    """The config of a checkpoint that can be a target or a drafter.

    Args:
        directory: a transformers checkpoint.
        name: of the model, for the messages.

    Raises:
        ArtifactError: `config.json` is damaged.
        ModelError: the model needs code of its own, has an encoder, or has no LM head.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = directory / "config.json"
    raw = read_json(path)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise damaged(path, "no model_type")
    if model_type not in CONFIG_MAPPING:
        needs_code = "auto_map" in raw
        raise ModelError(
            f"{name} needs program code that comes with the model, and outlex never runs such code"
            if needs_code
            else f"transformers does not know the model type of {name}",
            got=f"model_type {model_type!r}" + (" with auto_map" if needs_code else ""),
            expected="a model type built into transformers",
            next_step="update transformers if a newer version has this type, or choose another model",
        )
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each config class has its own checks and its own exceptions
        raise damaged(path, error) from error
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name} is an encoder-decoder model",
            got=f"model_type {model_type!r}",
            expected="a decoder-only (causal) language model",
            next_step="choose a causal model; speculative decoding with an encoder is not supported",
        )
    architectures = config.architectures or []
    if architectures and not any(mark in arch for arch in architectures for mark in _GENERATOR_MARKS):
        raise ModelError(
            f"{name} has no LM head: it computes embeddings or classes, not tokens",
            got=", ".join(architectures),
            expected="an architecture such as LlamaForCausalLM",
            next_step="choose the causal version of this model",
        )
    return config


def damaged(path: Path, reason: object) -> ArtifactError:
    """The error for a file whose contents cannot be what they should be."""
    return ArtifactError(
        f"{path.name} cannot be read",
        got=f"{path}: {reason}",
        next_step="the file is truncated or corrupted: copy or download it again",
    )


def _missing(directory: Path, got: str) -> ArtifactError:
    return ArtifactError(
        "this directory is not a complete transformers checkpoint",
        got=f"{directory}: {got}",
        expected="config.json, tokenizer.json and model.safetensors (or all its shards)",
        next_step="copy or download the missing files, or save the model there with save_pretrained",
    )
