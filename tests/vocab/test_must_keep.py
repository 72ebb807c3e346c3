"""Which ids are always kept, on tokenizers of both families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from outlex.errors import InputError
from outlex.vocab.must_keep import MustKeep, must_keep
from outlex.vocab.tokenizer_facts import facts_of


def _pieces(tokenizer: Any, kept: MustKeep, reason: str) -> list[str]:
    return [tokenizer.convert_ids_to_tokens(index) for index in kept.reasons[reason]]


def test_byte_level(byte_level: Any) -> None:
    kept = must_keep(byte_level)
    assert _pieces(byte_level, kept, "stop") == ["<|im_end|>"]
    assert set(_pieces(byte_level, kept, "special")) == {
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<tool_call>",
        "<think>",
    }
    assert len(kept.reasons["byte"]) == 256
    assert {str(digit) for digit in range(10)} <= set(_pieces(byte_level, kept, "digit"))
    assert all(piece.isdigit() and len(piece) <= 3 for piece in _pieces(byte_level, kept, "digit"))
    runs = [byte_level.decode([index]) for index in kept.reasons["whitespace"]]
    assert {" ", "\n", "\t"} <= set(runs)
    assert any(len(run) > 1 for run in runs)
    assert not any(run.strip() for run in runs)


def test_sentencepiece_leaves_free_places_out(sentencepiece: Any) -> None:
    kept = must_keep(sentencepiece)
    assert kept.n_filler == 2
    assert set(_pieces(sentencepiece, kept, "special")) == {
        "<unk>",
        "<s>",
        "</s>",
        "<|im_end|>",
        "<|endoftext|>",
        "<table>",
    }
    assert set(_pieces(sentencepiece, kept, "digit")) >= {"1", "12"}
    assert not {"1234", "\u25811"} & set(_pieces(sentencepiece, kept, "digit"))
    assert {"\u2581", "\u2581\u2581", "\n", "\n\n", "<0x0A>"} <= set(_pieces(sentencepiece, kept, "whitespace"))
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= set(_pieces(sentencepiece, kept, "byte"))


def test_a_free_place_that_stops_the_generation_is_kept(sentencepiece: Any) -> None:
    unused = sentencepiece.convert_tokens_to_ids("<unused1>")
    kept = must_keep(sentencepiece, stop_ids=[unused])
    assert unused in kept.ids
    assert kept.n_filler == 1


@pytest.mark.parametrize(
    ("name", "is_filler"),
    [
        ("<unused12>", True),
        ("[unused3]", True),
        ("<|reserved_special_token_250|>", True),
        ("<|reserved_200018|>", True),
        ("<SPECIAL_731>", True),
        ("<|dummy_0|>", True),
        ("<｜place▁holder▁no▁7｜>", True),
        ("<|extra_204|>", True),
        ("<|eot_id|>", False),
        ("<tool_call>", False),
        ("<h1>", False),
        ("<|fim_pad|>", False),
        ("<|vision_pad|>", False),
    ],
)
def test_names_of_free_places(make_byte_level: Callable[..., Any], name: str, is_filler: bool) -> None:
    tokenizer = make_byte_level(n_entries=270, added=(name,))
    kept = must_keep(tokenizer)
    assert kept.n_filler == is_filler
    assert (tokenizer.convert_tokens_to_ids(name) in kept.ids) == (not is_filler)


def test_ids_are_the_sorted_union(byte_level: Any) -> None:
    facts = facts_of(byte_level)
    kept = must_keep(facts, stop_ids=[5], extra_ids=(index for index in (300, 5, 300)))
    assert kept.reasons["extra"] == (5, 300)
    assert {5, 300} <= set(kept.ids)
    assert list(kept.ids) == sorted({index for ids in kept.reasons.values() for index in ids})
    assert len(kept) == len(kept.ids)


@pytest.mark.parametrize("bad", [-1, 335, True, 2.0, "3"])
@pytest.mark.parametrize("name", ["stop_ids", "extra_ids"])
def test_bad_ids_are_refused(byte_level: Any, name: str, bad: Any) -> None:
    assert facts_of(byte_level).n_entries <= 335
    with pytest.raises(InputError, match=f"leave {name} out"):
        must_keep(byte_level, **{name: [bad]})


@pytest.mark.parametrize("ids", [(2, 1), (1, 1), (-1, 2)])
def test_unordered_reasons_are_refused(ids: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="ascending"):
        MustKeep(reasons={"stop": ids})


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("name", "n_kept", "n_filler"), [("qwen05", 697, 0), ("smol135", 408, 0), ("gemma270", 536, 6242)]
)
def test_sizes_on_real_tokenizers(real_tokenizer: Callable[[str], Any], name: str, n_kept: int, n_filler: int) -> None:
    kept = must_keep(real_tokenizer(name))
    assert (len(kept), kept.n_filler) == (n_kept, n_filler)
