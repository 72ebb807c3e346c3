"""Encoding parts of texts once: the ids are those of the whole texts, or no cut is allowed."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
from corpora import WORDS
from hypothesis import given
from hypothesis import strategies as st

from outlex.calibration import segments
from outlex.calibration.encoding import Encoder, EncodingSpec, spec_of
from outlex.calibration.segments import SplitRule, find_rule

PARTS = [
    *WORDS,
    *(
        "don't",
        "foo.bar(",
        "e\u0301",
        "½",
        "²",
        " ",
        "   ",
        "\n\n",
        "\r\n",
        "\n  ",
        "\t",
        "'",
        "'s",
        "_x",
        "…",
        "\u00a0",
    ),
    *(
        " a",
        " 7",
        "42",
        " 日本",
        "\u00c5",
        "\u212b",
        "\ua7db",
        "ᚠ",
        "<|im_end|>",
        "<table>",
        "<think>",
        "<|",
        "\u3000 b",
    ),
]
texts = st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=12).map("".join)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Both:
    """The same tokenizer, with its table and without."""

    spec: EncodingSpec
    encoder: Encoder
    backend: Any

    @classmethod
    def of(cls, tokenizer: Any) -> Both:
        from tokenizers import Tokenizer

        spec = spec_of(tokenizer)
        return cls(spec, Encoder(spec), Tokenizer.from_str(spec.tokenizer))

    def check(self, given_texts: list[str]) -> None:
        wanted = [self.backend.encode(text, add_special_tokens=False).ids for text in given_texts]
        for _ in range(2):  # the second time everything is in the table
            ids, lengths = self.encoder.encode(given_texts)
            assert ids.tolist() == [index for one in wanted for index in one]
            assert lengths.tolist() == [len(one) for one in wanted]


def with_words(tokenizer: Any, *steps: Any) -> Any:
    """The tokenizer with another pre-tokenizer."""
    from tokenizers import pre_tokenizers

    changed = deepcopy(tokenizer)
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return changed


def like_qwen(tokenizer: Any) -> Any:
    from tokenizers import Regex, normalizers, pre_tokenizers

    changed = with_words(
        tokenizer, pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)
    )
    changed.backend_tokenizer.normalizer = normalizers.NFC()
    return changed


def like_smollm(tokenizer: Any) -> Any:
    from tokenizers import pre_tokenizers

    return with_words(tokenizer, pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False))


@pytest.fixture(scope="module", params=["byte_level", "like_qwen", "like_smollm", "qwen05", "smol135"])
def both(request: pytest.FixtureRequest, byte_level: Any, real_tokenizer: Any) -> Both:
    toys = {"byte_level": byte_level, "like_qwen": like_qwen(byte_level), "like_smollm": like_smollm(byte_level)}
    return Both.of(toys.get(request.param) or real_tokenizer(request.param))


@given(st.lists(texts, max_size=5))
def test_ids_are_those_of_the_whole_texts(both: Both, given_texts: list[str]) -> None:
    assert both.spec.split_rule is not None
    both.check(given_texts)


PLAIN = "".join(map(chr, range(32, 127))) + "\t\n\r"


@given(st.lists(st.text(PLAIN + " \n'aA1" * 8, max_size=30) | texts, max_size=4))
def test_plain_text_falls_into_the_tokenizers_words(both: Both, given_texts: list[str]) -> None:
    assert both.spec.split_rule is not None
    assert both.spec.split_rule.words is not None
    both.check(given_texts)


@pytest.mark.parametrize("near", ["\x00", "\x0b", "\x1c", "\x1f", "\x7f", "\x85", "\u00a0", "ſ", "\u2028", "İ"])
def test_text_that_engines_may_see_otherwise_is_left_to_the_library(both: Both, near: str) -> None:
    both.check([f"a{near} 'S{near}b 12{near}\n {near}", near, f" {near} x"])


@given(st.data())
def test_pieces_of_the_vocabulary_in_any_order(both: Both, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, both.spec.n_entries - 1), max_size=30))
    both.check([both.backend.decode(ids, skip_special_tokens=False)])


@given(texts)
def test_cuts_are_at_the_ends_of_words(text: str) -> None:
    letter, word, stop = segments._LETTER, segments._WORD, segments._STOP
    places = re.compile(f"(?<=[{word}])(?=[{stop}])|(?<=.)(?= [{letter}])", re.DOTALL)
    assert SplitRule(markers=()).split(text) == [part for part in places.split(text) if part]


def test_texts_with_an_added_token_stay_whole(byte_level: Any) -> None:
    rule = spec_of(byte_level).split_rule
    assert rule is not None
    parts = ["The", " fox's", " ", " den", "(x", "_1", ")\n\n—and", " …so", " a"]
    assert rule.split("The fox's  den(x_1)\n\n—and …so a") == parts
    assert rule.split("a<|im_end|>b c") == ["a<|im_end|>b c"]
    assert rule.split("") == []


def test_many_added_tokens_are_found_by_their_beginnings(byte_level: Any) -> None:
    changed = deepcopy(byte_level)
    changed.add_tokens([f"<unused {number}>" for number in range(60)])
    rule = spec_of(changed).split_rule
    assert rule is not None
    assert len(rule.markers) <= 48
    assert rule.split("a <unused 17> b") == ["a <unused 17> b"]
    Both.of(changed).check(["a <unused 17> b", "x <unused 5 b"])


def test_the_table_starts_anew_when_it_is_full(byte_level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlex.calibration.segments._MAX_SEGMENTS", 3)
    both = Both.of(byte_level)
    for turn in range(4):
        both.check([f"and {turn} again fox", "river", ""])


def test_added_tokens_that_no_cut_takes_apart_are_seen(byte_level: Any) -> None:
    changed = deepcopy(byte_level)
    changed.add_tokens(["fox", "zzz"])
    both = Both.of(changed)
    assert both.spec.split_rule is not None
    assert not {"fox", "zzz"} & set(both.spec.split_rule.markers)
    both.check(["the fox and the foxes", "buzzzing zzz", "a fox"])


def test_splitters_in_two_steps_are_left_to_the_library(byte_level: Any) -> None:
    from tokenizers import Regex, pre_tokenizers

    twice = with_words(
        byte_level, pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=True)
    )
    both = Both.of(twice)
    assert both.spec.split_rule is not None
    assert both.spec.split_rule.words is None
    both.check(["it's 42 foxes (or more)", "a  b"])


@pytest.mark.parametrize(
    "kind", ["prefix", "strip", "lowercase", "metaspace", "unknown words", "bytes first", "sentencepiece", "unigram"]
)
def test_tokenizers_of_other_kinds_are_not_cut(kind: str, byte_level: Any, sentencepiece: Any) -> None:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = deepcopy(byte_level)
    backend = tokenizer.backend_tokenizer
    if kind == "prefix":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind == "strip":
        backend.normalizer = normalizers.Strip()
    elif kind == "lowercase":
        backend.normalizer = normalizers.Lowercase()
    elif kind == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    elif kind == "unknown words":  # what comes after a cut depends on how many letters came before it
        step = pre_tokenizers.Split(Regex(".{3}"), "isolated")
        tokenizer = with_words(tokenizer, step, pre_tokenizers.ByteLevel(False, use_regex=False))
    elif kind == "bytes first":  # the expression would see bytes, written as letters
        step = pre_tokenizers.Split(Regex(QWEN), "isolated")
        tokenizer = with_words(tokenizer, pre_tokenizers.ByteLevel(False, use_regex=False), step)
    elif kind == "sentencepiece":
        tokenizer = sentencepiece
    else:
        unigram = Tokenizer(models.Unigram([("a", -1.0), ("b", -1.0), ("<", -2.0)], 0, False))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="<")
    both = Both.of(tokenizer)
    assert both.spec.split_rule is None
    both.check(["ab ab", "a.b"])


@pytest.mark.parametrize(
    "change", [{"dropout": 0.5}, {"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}]
)
def test_models_that_heed_the_place_in_a_word_are_not_cut(change: dict[str, object]) -> None:
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    state: dict[str, Any] = {"normalizer": None, "pre_tokenizer": bytes_alone, "added_tokens": []}
    assert find_rule({**state, "model": {"type": "BPE", "vocab": {}}}) is not None
    assert find_rule({**state, "model": {"type": "BPE", "vocab": {}, **change}}) is None
