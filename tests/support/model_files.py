"""Tiny checkpoints, wheels and GGUF files, made on the spot: no test of this room needs the network."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
N_TOKENS = 3 + 256
N_ROWS = 264


def byte_alphabet() -> list[str]:
    """The 256 characters by which byte-level tokenizers spell the bytes."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def save_tokenizer(directory: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """A byte-level tokenizer without merges: one token a byte, specials first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate([*SPECIALS, *byte_alphabet()])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIALS[0], eos_token=SPECIALS[2], chat_template=chat_template
    )
    tokenizer.save_pretrained(directory)


def tiny_config(**changes: Any) -> Any:
    """A Llama of 2 layers and 32 dimensions, with padding rows in its head."""
    from transformers import LlamaConfig

    settings: dict[str, Any] = {
        "vocab_size": N_ROWS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return LlamaConfig(**{**settings, **changes})


def save_model(directory: Path, config: Any) -> None:
    """Random weights for a config of a causal model."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)


def save_tiny_checkpoint(directory: Path) -> Path:
    """A whole checkpoint: tiny Llama and tokenizer."""
    save_model(directory, tiny_config())
    save_tokenizer(directory)
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes the key."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """A wheel, version 1.0, that pip accepts."""
    stem = f"{name.replace('-', '_')}-1.0"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in members.items():
            wheel.writestr(member, data)
        info = f"{stem}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path
