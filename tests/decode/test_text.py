"""Detokenising one token at a time: nothing shown is ever taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import byte_tokenizer

from outlex.decode.text import TextStream
from outlex.errors import InputError


def decode(ids: object) -> str:
    return str(byte_tokenizer().decode(ids))


@given(text=st.text(max_size=40))
def test_pieces_add_up_to_the_text(text: str) -> None:
    stream = TextStream(decode)
    pieces = []
    for token_id in byte_tokenizer()(text)["input_ids"]:
        stream.push(token_id)
        pieces.append(stream.take())
    pieces.append(stream.finish())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


@given(
    text=st.text(alphabet="abé", max_size=30),
    stops=st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_where_a_search_in_the_whole_text_would(text: str, stops: list[str]) -> None:
    stream = TextStream(decode, stops)
    pieces = []
    for n_pushed, token_id in enumerate(byte_tokenizer()(text)["input_ids"], start=1):
        stopped = stream.push(token_id)
        pieces.append(stream.take())
        if stopped:
            shown = byte_tokenizer().decode(byte_tokenizer()(text)["input_ids"][:n_pushed])
            assert any(shown.endswith(stop) for stop in stops)
            break
    pieces.append(stream.finish())
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    # the stop string that is complete first counts
    first_done = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=len(text))
    wanted = text if not ends else text[: min(text.find(s) for s in stops if s in text[:first_done])]
    assert "".join(pieces) == wanted


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(decode, ["END"])
    shown = ""
    for token_id in byte_tokenizer()("a EN")["input_ids"]:
        stream.push(token_id)
        shown += stream.take()
    assert shown == "a "
    assert stream.finish() == "EN"


def test_bytes_that_are_no_text_come_out_at_the_end() -> None:
    half = byte_tokenizer()("é")["input_ids"][:1]
    stream = TextStream(decode)
    stream.push(half[0])
    assert stream.take() == ""
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize("stops", [[""], [1]])
def test_stop_strings_must_be_text(stops: list[str]) -> None:
    with pytest.raises(InputError, match="stop string"):
        TextStream(decode, stops)
