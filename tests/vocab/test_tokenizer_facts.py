"""Pieces, fingerprints and bytes of toy tokenizers, and of real ones where they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from outlex.errors import InputError, MismatchError
from outlex.vocab.tokenizer_facts import TokenizerFacts, check_same_tokenizer, facts_of, piece_bytes

if TYPE_CHECKING:
    from outlex.models import LanguageModel


def _decodes_as_spelled(tokenizer: Any, facts: TokenizerFacts) -> int:
    """Compare piece_bytes with the tokenizer's own decoder wherever the bytes are text; returns how often."""
    n_compared = 0
    for index, data in enumerate(piece_bytes(facts)):
        if data is None:
            assert index in facts.special_ids or facts.pieces[index] is None
            continue
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        assert tokenizer.backend_tokenizer.decode([index]) == text, (index, facts.pieces[index])
        n_compared += 1
    return n_compared


def test_facts_of_a_byte_level_tokenizer(byte_level: Any) -> None:
    facts = facts_of(byte_level)
    assert facts.n_entries == len(byte_level)
    assert facts.spelling == "byte-level"
    assert {facts.pieces[index] for index in facts.special_ids} == {
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    }
    assert {facts.pieces[index] for index in facts.added_ids} - {"<tool_call>", "<think>"} == {
        facts.pieces[index] for index in facts.special_ids
    }
    assert facts.eos_id == byte_level.convert_tokens_to_ids("<|im_end|>")
    assert facts_of(byte_level) == facts


def test_filler_changes_nothing_but_a_real_piece_does(make_byte_level: Callable[..., Any]) -> None:
    plain = facts_of(make_byte_level())
    assert facts_of(make_byte_level(n_filler=9)) == plain
    other = facts_of(make_byte_level(added=("<think>",), n_filler=9))
    assert other.n_entries == plain.n_entries + 1
    assert other.fingerprint != plain.fingerprint
    assert other.fingerprint_of_first(plain.n_entries) == plain.fingerprint


def test_a_filler_name_with_another_number_is_a_piece(make_byte_level: Callable[..., Any]) -> None:
    facts = facts_of(make_byte_level(added=("[PAD7]",)))
    assert facts.pieces[-1] == "[PAD7]"


def test_bytes_agree_with_the_decoder(byte_level: Any, sentencepiece: Any) -> None:
    assert _decodes_as_spelled(byte_level, facts_of(byte_level)) > 150
    assert _decodes_as_spelled(sentencepiece, facts_of(sentencepiece)) > 130


def test_bytes_of_a_whole_text_join_to_the_text(byte_level: Any, sentencepiece: Any) -> None:
    text = "naïve  café\n\t🙂 123 <think> a"
    for tokenizer in (byte_level, sentencepiece):
        spelled = piece_bytes(facts_of(tokenizer))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(spelled[index] or b"?" for index in ids) == text.encode()


def test_byte_pieces_and_spaces_of_sentencepiece(sentencepiece: Any) -> None:
    facts = facts_of(sentencepiece)
    spelled = dict(zip(facts.pieces, piece_bytes(facts), strict=True))
    assert facts.spelling == "sentencepiece"
    assert spelled["<0x0A>"] == b"\n"
    assert spelled["<0xFF>"] == b"\xff"
    assert spelled["\u2581\u2581"] == b"  "
    assert spelled["<table>"] == b"<table>"
    assert spelled["<unused0>"] is None


def _facts(pieces: list[str | None], **changes: Any) -> TokenizerFacts:
    from outlex.vocab.tokenizer_facts import _fingerprint

    values = {
        "pieces": tuple(pieces),
        "fingerprint": _fingerprint(tuple(pieces)),
        "special_ids": (),
        "added_ids": (),
        "eos_id": None,
        "spelling": "text",
    }
    return TokenizerFacts(**(values | changes))


def test_same_tokenizer_or_one_that_goes_on() -> None:
    short, long = _facts(["a", None, "c"]), _facts(["a", None, "c", "d"])
    assert check_same_tokenizer(short, short) == 3
    assert check_same_tokenizer(short, long) == 3
    assert check_same_tokenizer(long, short) == 3


def test_other_tokenizers_are_counted_and_shown() -> None:
    target, drafter = _facts(list("abcdefgh")), _facts(list("abXXXXXh"))
    with pytest.raises(MismatchError) as caught:
        check_same_tokenizer(target, drafter)
    message = str(caught.value)
    assert "5 of 8" in message
    assert "id 2: target 'c', drafter 'X'" in message
    assert "id 5" not in message
    assert "drafter of the target's own family" in message


def test_a_hole_is_a_difference_and_has_no_bytes() -> None:
    facts = _facts(["a", None, "c"])
    with pytest.raises(MismatchError, match="1 of 3"):
        check_same_tokenizer(facts, _facts(["a", "b", "c"]))
    assert piece_bytes(facts) == [b"a", None, b"c"]
    assert facts.fingerprint != _facts(["a", "", "c"]).fingerprint


@pytest.mark.parametrize("changes", [{"special_ids": (3,)}, {"added_ids": (-1,)}, {"eos_id": 3}])
def test_ids_outside_the_pieces_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="belong together"):
        _facts(["a", "b", "c"], **changes)


def test_no_pieces_are_refused() -> None:
    with pytest.raises(InputError, match="complete"):
        _facts([])


def test_150k_pieces_are_compared_quickly() -> None:
    pieces: list[str | None] = [f"piece {n}" for n in range(151_936)]
    target = _facts(pieces)
    drafter = _facts([*pieces[:-1], "another"])
    start = time.perf_counter()
    with pytest.raises(MismatchError, match="1 of 151936"):
        check_same_tokenizer(target, drafter)
    # Milliseconds; the bound only catches a quadratic comparison.
    assert time.perf_counter() - start < 5


@pytest.mark.real_model
def test_the_real_qwen_pair_agrees_and_smol_does_not(real_tokenizer: Callable[[str], Any]) -> None:
    small, large, other = (real_tokenizer(name) for name in ("qwen05", "qwen15", "smol135"))
    facts = facts_of(small)
    assert facts.n_entries == 151_665
    assert check_same_tokenizer(facts_of(large), facts) == 151_665
    with pytest.raises(MismatchError, match="own family"):
        check_same_tokenizer(facts, facts_of(other))


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smol135", "gemma270"])
def test_bytes_of_real_tokenizers_agree_with_their_decoders(real_tokenizer: Callable[[str], Any], name: str) -> None:
    tokenizer = real_tokenizer(name)
    assert _decodes_as_spelled(tokenizer, facts_of(tokenizer)) > 40_000


@pytest.mark.real_model
def test_facts_of_the_checkpoint_that_every_run_has(smol135: LanguageModel) -> None:
    facts = facts_of(smol135.tokenizer)
    assert facts.n_entries == 49_152
    assert _decodes_as_spelled(smol135.tokenizer, facts) > 40_000
