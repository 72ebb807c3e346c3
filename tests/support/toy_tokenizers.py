"""Small tokenizers made on the spot, and the real ones when somebody points at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REAL_TOKENIZERS = "OUTLEX_TEST_TOKENIZERS"
TEXTS = [
    "def add(a, b):\n    return a + b  # 123 and 4567\n\n\n",
    "The quick brown fox jumps over the lazy dog, naïve café, 3.14159.\t\tTabs too.\r\n",
    "日本語のテキスト and emoji 🙂🙂, again and again and again",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _wrap(backend: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _train_byte_level(*, n_entries: int, added: list[str], n_filler: int) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_entries - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in added])
    first = backend.get_vocab_size()
    # What a GGUF file gives the rows of a padded head.
    backend.add_tokens([f"[PAD{first + n}]" for n in range(n_filler)])
    return _wrap(backend)


@pytest.fixture(scope="session")
def make_byte_level() -> Callable[..., Any]:
    """Trains a byte-level BPE tokenizer in transformers' wrapping."""

    def make(*, n_entries: int = 330, added: tuple[str, ...] = (), n_filler: int = 0) -> Any:
        return _train_byte_level(n_entries=n_entries, added=list(added), n_filler=n_filler)

    return make


@pytest.fixture(scope="session")
def byte_level(make_byte_level: Callable[..., Any]) -> Any:
    """All 256 bytes, some merges, 3 specials and 2 added tokens."""
    return make_byte_level(added=("<tool_call>", "<think>"))


@pytest.fixture(scope="session")
def sentencepiece() -> Any:
    """A BPE with U+2581 for a space and byte fallback, and free places among its specials."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = ["<unk>", "<s>", "</s>", "<unused0>", "<unused1>", "<|im_end|>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [
        "\u2581",
        "\u2581\u2581",
        "a",
        "b",
        "1",
        "2",
        "12",
        "\u25811",
        "\u2581a",
        "1234",
        "é",
        "\n",
        "\n\n",
    ]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("\u2581", "\u2581"), ("1", "2"), ("\u2581", "1"), ("\u2581", "a"), ("\n", "\n")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(pieces[:6])
    backend.add_tokens([AddedToken("<table>", special=False, normalized=False)])
    return _wrap(backend)


@pytest.fixture(scope="session")
def real_tokenizer() -> Callable[[str], Any]:
    """Loads the tokenizer of a checkpoint directory below ``$OUTLEX_TEST_TOKENIZERS``."""

    @cache
    def load(name: str) -> Any:
        root = os.environ.get(REAL_TOKENIZERS)
        if not root or not (Path(root) / name / "tokenizer.json").is_file():
            pytest.skip(f"{REAL_TOKENIZERS} does not name a directory with {name}/tokenizer.json")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(Path(root) / name)

    return load
