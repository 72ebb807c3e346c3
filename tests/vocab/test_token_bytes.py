"""Tokens that two tokenizers share, by their bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from two_tokenizers import letters

from outlex.errors import MismatchError
from outlex.vocab.token_bytes import TokenBytes, shared_tokens
from outlex.vocab.token_map import TokenMap
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of


def shared(target: Any, drafter: Any, *, n_draft: int = 0, n_target: int = 0) -> tuple[TokenMap, dict[str, str]]:
    """The map, and the pieces that it joins (drafter's: target's)."""
    ours, theirs = facts_of(target), facts_of(drafter)
    token_map = shared_tokens(ours, theirs, n_draft=n_draft or theirs.n_entries, n_target=n_target or ours.n_entries)
    rows = token_map.draft_to_target.tolist()
    return token_map, {str(theirs.pieces[i]): str(ours.pieces[j]) for i, j in enumerate(rows) if j >= 0}


def test_equal_strings_are_joined_and_others_are_not() -> None:
    token_map, pieces = shared(letters(("a", "b", "ab")), letters(("b", "a", "ba")))
    assert pieces == {"a": "a", "b": "b", "<|end|>": "<|end|>"}
    assert token_map.draft_to_target.tolist() == [1, 0, -1, 3]
    assert token_map.target_to_draft.tolist() == [1, 0, -1, 3]


def test_both_spellings_of_bytes_meet(byte_level: Any, sentencepiece: Any) -> None:
    _, pieces = shared(byte_level, sentencepiece)
    assert pieces["\u2581"] == "Ġ"
    assert pieces["\n"] == "Ċ"
    assert pieces["a"] == "a"
    assert pieces["<0xE3>"] == "ã"  # a byte that is no character
    # SentencePiece has these twice: the piece counts, not the byte behind it
    assert not {"<0x0A>", "<0x61>", "<0x20>"} & pieces.keys()


def test_special_tokens_are_joined_by_role_alone(byte_level: Any, sentencepiece: Any) -> None:
    _, pieces = shared(byte_level, sentencepiece)
    # both end with <|im_end|> and know <s>/<|im_start|>, which stay apart
    assert pieces["<|im_end|>"] == "<|im_end|>"
    assert sum(piece.startswith("<|") or piece in ("<s>", "</s>", "<unk>") for piece in pieces) == 1
    assert sentencepiece.eos_token == byte_level.eos_token == "<|im_end|>"


def test_ends_of_sequence_with_other_names_are_joined() -> None:
    end, other = letters(("a", "b")), letters(("a", "b", "ab"))
    facts, theirs = facts_of(end), facts_of(other)
    renamed = TokenizerFacts(
        pieces=("a", "b", "ab", "</s>"),
        fingerprint="x",
        special_ids=theirs.special_ids,
        added_ids=theirs.added_ids,
        eos_id=theirs.eos_id,
        spelling="byte-level",
    )
    token_map = shared_tokens(facts, renamed, n_draft=4, n_target=3)
    assert token_map.draft_to_target.tolist() == [0, 1, -1, 2]


def test_rows_and_ids_outside_the_heads_are_left_out(make_byte_level: Callable[..., Any]) -> None:
    tokenizer = make_byte_level(n_filler=4)
    n = facts_of(tokenizer).n_entries
    token_map, _ = shared(tokenizer, tokenizer, n_draft=n + 4, n_target=200)
    assert (token_map.n_draft, token_map.n_target) == (n + 4, 200)
    assert int((token_map.draft_to_target >= 0).sum()) == 200
    assert token_map.draft_to_target[n:].tolist() == [-1] * 4


def test_a_text_token_is_found_again_by_its_bytes(byte_level: Any) -> None:
    known = TokenBytes.of(facts_of(byte_level))
    text = "日本語 and again, naïve <tool_call>"
    ids = byte_level(text, add_special_tokens=False)["input_ids"]
    spelled = [known.spelled[i] for i in ids]
    assert b"".join(data or b"?" for data in spelled) == text.encode()
    assert [known.ids[data or b"?"] for data in spelled] == ids


def test_tokenizers_with_nothing_in_common_are_refused() -> None:
    facts = [
        TokenizerFacts(pieces=(piece,), fingerprint=piece, special_ids=(), added_ids=(), eos_id=None, spelling="text")
        for piece in ("a", "b")
    ]
    with pytest.raises(MismatchError, match="share no token") as caught:
        shared_tokens(facts[0], facts[1], n_draft=1, n_target=1)
    assert "another drafter" in str(caught.value)


def test_the_real_pair(real_tokenizer: Callable[[str], Any]) -> None:
    token_map, pieces = shared(real_tokenizer("qwen05"), real_tokenizer("smol135"))
    assert 39_000 < len(pieces) < 39_500
    assert pieces["Ġreturn"] == "Ġreturn"
    assert token_map.to_target(token_map.to_draft(token_map.draft_to_target)).equal(token_map.draft_to_target)
