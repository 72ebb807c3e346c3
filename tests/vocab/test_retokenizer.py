"""A text followed in another tokenizer's ids: the incremental way against encoding all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_tokenizers import PIECES, chunks, qwen_like, reference_ids

from outlex.vocab.retokenizer import Retokenizer, first_tokens
from outlex.vocab.token_bytes import TokenBytes, shared_tokens
from outlex.vocab.tokenizer_facts import facts_of

INTO = ("gpt2", "qwen", "sentencepiece")
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(codec="utf-8")), max_size=25).map("".join)
# texts as their tokens, and any tokens at all: most of those are no UTF-8
SOURCE = st.lists(st.one_of(TEXT, st.integers(0, 256)), min_size=1, max_size=6)
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def source(make_byte_level: Callable[..., Any]) -> Any:
    return make_byte_level(n_entries=330)


@pytest.fixture(scope="module")
def into(make_byte_level: Callable[..., Any], sentencepiece: Any) -> dict[str, Any]:
    return {
        "gpt2": make_byte_level(n_entries=300, added=("<tool_call>",)),
        "qwen": qwen_like(make_byte_level(n_entries=420)),
        "sentencepiece": sentencepiece,
    }


@pytest.fixture(scope="module")
def retokenizers(source: Any, into: dict[str, Any]) -> dict[str, Retokenizer]:
    return {name: Retokenizer(source, tokenizer) for name, tokenizer in into.items()}


def ids_of(parts: list[str | int], tokenizer: Any) -> list[int]:
    ids: list[int] = []
    for part in parts:
        whole = [part] if isinstance(part, int) else tokenizer(part, split_special_tokens=True)["input_ids"]
        ids += whole
    return ids


@cache
def spellings(tokenizer: Any) -> TokenBytes:
    return TokenBytes.of(facts_of(tokenizer))


def check(retokenizer: Retokenizer, source: Any, tokenizer: Any, ids: list[int], sizes: list[int]) -> None:
    """After every piece of the text the ids are those of all of it, and settled ones never change."""
    spelled, byte_ids = spellings(source).spelled, spellings(tokenizer).ids
    retokenizer.reset()
    data, settled = b"", list[int]()
    for piece in chunks(ids, sizes):
        retokenizer.append(piece)
        data += b"".join(spelled[i] or b"" for i in piece)
        found = retokenizer.ids
        assert found == [*retokenizer.start_ids, *reference_ids(data, tokenizer, byte_ids)]
        assert found[: len(settled)] == settled
        settled = found[: retokenizer.n_settled]


@pytest.mark.parametrize("name", INTO)
@settings(max_examples=120)
@given(parts=SOURCE, sizes=SIZES)
def test_any_text_is_the_text_encoded_at_once(
    name: str,
    parts: list[str | int],
    sizes: list[int],
    source: Any,
    into: dict[str, Any],
    retokenizers: dict[str, Retokenizer],
) -> None:
    check(retokenizers[name], source, into[name], ids_of(parts, source), sizes)


@pytest.mark.parametrize("name", ["qwen05", "smol135", "gemma270"])
def test_the_real_tokenizers(name: str, real_tokenizer: Callable[[str], Any]) -> None:
    source, tokenizer = real_tokenizer("smol135" if name == "qwen05" else "qwen05"), real_tokenizer(name)
    retokenizer = Retokenizer(source, tokenizer)
    assert retokenizer._may_cut == (name != "gemma270")

    @settings(max_examples=60)
    @given(parts=st.lists(TEXT, min_size=1, max_size=3), sizes=SIZES)
    def run(parts: list[str | int], sizes: list[int]) -> None:
        check(retokenizer, source, tokenizer, ids_of(parts, source), sizes)

    run()


def test_only_the_end_of_a_long_text_is_encoded_again(source: Any, retokenizers: dict[str, Retokenizer]) -> None:
    retokenizer = retokenizers["gpt2"]
    retokenizer.reset()
    retokenizer.append(ids_of(["The quick brown fox jumps over the lazy dog.\n" * 50 + "The"], source))
    assert len(retokenizer.ids) - retokenizer.n_settled <= 3
    assert len(retokenizers["sentencepiece"].start_ids) == 0


def test_a_character_is_held_back_until_it_is_complete(source: Any, into: dict[str, Any]) -> None:
    retokenizer = Retokenizer(source, into["gpt2"])
    known = TokenBytes.of(facts_of(into["gpt2"])).ids
    single = partial(map, lambda byte: known[bytes([byte])])
    first, *rest = (TokenBytes.of(facts_of(source)).ids[bytes([byte])] for byte in "🙈".encode())
    retokenizer.append([first])
    assert retokenizer.ids == list(single(b"\xf0"))
    retokenizer.append(rest)
    assert retokenizer.ids == into["gpt2"]("🙈")["input_ids"]
    retokenizer.append([first, first])
    # the first of the two can no longer become a character
    assert retokenizer.ids == [*into["gpt2"]("🙈")["input_ids"], *single(b"\xf0\xf0")]


def test_special_tokens_keep_their_meaning(source: Any, into: dict[str, Any], make_byte_level: Any) -> None:
    text = "<|im_start|>user\nagain 🙂<|im_end|>\n<|im_start|>"
    ids = source(text)["input_ids"]
    assert ids[0] == source.convert_tokens_to_ids("<|im_start|>")
    tokenizer = into["gpt2"]
    retokenizer = Retokenizer(source, tokenizer)
    retokenizer.append(ids)
    assert retokenizer.ids == tokenizer(text)["input_ids"]
    # the same letters from ordinary tokens are text
    plain = ids_of(["<|im_end|>"], source)
    retokenizer.reset()
    retokenizer.append(plain)
    assert retokenizer.ids == tokenizer("<|im_end|>", split_special_tokens=True)["input_ids"]
    assert tokenizer.eos_token_id not in retokenizer.ids
    # an added token that the other lacks is spelled out, and not lost
    other = make_byte_level(added=("<tool_call>",))
    retokenizer = Retokenizer(other, source)
    retokenizer.append(other("x<tool_call>y")["input_ids"])
    assert retokenizer.ids == source("x<tool_call>y")["input_ids"]


def test_special_tokens_without_a_counterpart(source: Any, sentencepiece: Any) -> None:
    retokenizer = Retokenizer(source, sentencepiece)
    # <|im_start|> is unknown there, <|im_end|> has the same name; <|endoftext|> is neither
    ids = source("<|im_start|>a<|im_end|>")["input_ids"]
    retokenizer.append(ids)
    spelled = sentencepiece("<|im_start|>a", split_special_tokens=True)["input_ids"]
    assert retokenizer.ids == [*spelled, sentencepiece.eos_token_id]
    assert retokenizer.of_token(source.eos_token_id) == [sentencepiece.eos_token_id]


def test_a_begin_of_sequence_is_the_other_tokenizers_own(make_byte_level: Callable[..., Any]) -> None:
    from tokenizers import processors

    begun = make_byte_level(n_entries=300)
    begin = begun.convert_tokens_to_ids("<|endoftext|>")
    begun.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    source = make_byte_level(n_entries=320)
    source.bos_token = "<|endoftext|>"
    retokenizer = Retokenizer(source, begun)
    assert retokenizer.start_ids == (begin,)
    retokenizer.append(source("<|endoftext|>again")["input_ids"])
    assert retokenizer.ids == begun("again")["input_ids"]  # one begin, not two
    assert retokenizer.of_token(source.convert_tokens_to_ids("a")) == [begun.convert_tokens_to_ids("a")]


def test_padding_is_nothing(source: Any, retokenizers: dict[str, Retokenizer]) -> None:
    retokenizer = retokenizers["qwen"]
    retokenizer.reset()
    retokenizer.append([len(source) + 5])
    assert retokenizer.ids == retokenizer.of_token(len(source) + 5) == []


@pytest.mark.parametrize("change", ["added token with a space", "prefix space", "unknown rule", "other normaliser"])
def test_a_tokenizer_that_may_merge_across_a_cut_is_not_cut(
    change: str, source: Any, make_byte_level: Callable[..., Any]
) -> None:
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    tokenizer = make_byte_level(n_entries=300)
    assert Retokenizer(source, tokenizer)._may_cut
    backend = tokenizer.backend_tokenizer
    if change == "added token with a space":
        backend.add_tokens([AddedToken("quick brown", normalized=False)])
    elif change == "prefix space":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "unknown rule":
        backend.pre_tokenizer = None
    else:
        backend.normalizer = normalizers.Lowercase()
    retokenizer = Retokenizer(source, tokenizer)
    assert not retokenizer._may_cut
    text = "The quick brown fox\nagain"
    for token_id in source(text)["input_ids"]:
        retokenizer.append([token_id])
    assert retokenizer.ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_tokenizer_itself_is_left_as_it_is(source: Any, into: dict[str, Any]) -> None:
    tokenizer = into["gpt2"]
    Retokenizer(source, tokenizer).append(ids_of(["<|im_end|>"], source))
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id]


def test_first_tokens_begin_the_text_of_each_row(source: Any, into: dict[str, Any]) -> None:
    target, drafter = source, into["qwen"]
    facts, own = facts_of(target), facts_of(drafter)
    n_draft = own.n_entries + 3  # a padded head
    shared = shared_tokens(facts, own, n_draft=n_draft, n_target=facts.n_entries)
    first = first_tokens(target, drafter, shared=shared).tolist()
    spelled, theirs = TokenBytes.of(own).spelled, TokenBytes.of(facts).spelled
    n_moved = 0
    for row, index in enumerate(first):
        image = int(shared.draft_to_target[row])
        text = spelled[row] if row < len(spelled) else None
        if image >= 0:
            assert index == image
        elif text is None:
            assert index == -1  # special tokens and padding
        else:
            beginning = theirs[index]
            assert beginning is not None
            assert text.startswith(beginning), (row, text, beginning)
            assert len(beginning) < len(text)
            n_moved += 1
    assert n_moved > 20
