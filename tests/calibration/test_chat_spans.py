"""Which tokens of a chat the assistant has to emit: exact, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from corpora import CHATML, WORDS, chat, with_template
from hypothesis import given
from hypothesis import strategies as st

from outlex.calibration.chat import ChatTemplate, check_messages
from outlex.calibration.encoding import Encoder, EncodingSpec, spec_of
from outlex.calibration.faults import RecordError

GENERATION = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = CHATML.replace("m.content", "m.content | trim")
FORGETS = (  # earlier answers lose their first sentence, as reasoning models lose their thoughts
    "{% for m in messages %}[{{ m.role }}]"
    "{{ m.content if loop.last or m.role == 'user' else m.content.split('. ')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PREFILLS = CHATML.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\n<think>{%")
PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('the user begins') }}{% endif %}" + CHATML


def template_of(spec: EncodingSpec) -> ChatTemplate:
    assert spec.chat_template is not None
    return ChatTemplate(spec.chat_template, special_tokens=dict(spec.special_tokens), special_texts=spec.special_texts)


def answers(tokenizer: Any, template: str, record: dict[str, Any]) -> list[str]:
    text, spans = template_of(spec_of(with_template(tokenizer, template))).assistant_spans(
        check_messages(record["messages"])
    )
    return [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize("template", [CHATML, GENERATION])
def test_answers_end_with_the_end_of_turn_token(byte_level: Any, template: str) -> None:
    record = chat("hello", "good day\n", "and now?", " again ", "bye")
    assert answers(byte_level, template, record) == ["good day\n<|im_end|>", " again <|im_end|>"]


def test_templates_that_trim_or_have_no_end_token_are_followed(byte_level: Any) -> None:
    record = chat("hello", " good day\n", "and now?", "again ")
    assert answers(byte_level, TRIMMING, record) == ["good day<|im_end|>", "again<|im_end|>"]
    assert answers(byte_level, PLAIN, record) == [" good day\n", "again "]


@pytest.mark.parametrize(
    ("template", "record", "reason", "detail"),
    [
        (FORGETS, chat("hi", "I think. Yes", "sure?", "Yes"), "rewrites earlier text", "others follow it"),
        (PREFILLS, chat("hi", "yes"), "rewrites earlier text", "generation prompt"),
        (STRICT, chat("hi", "yes")["messages"][1:], "template fails", "the user begins"),
        ("{{ nothing.at.all }}", chat("hi", "yes"), "template fails", "undefined"),
        ("{% if %}", chat("hi", "yes"), "template fails", "roles user, assistant"),
        (
            "{% generation %}{% endgeneration %}{{ messages[0].content }}",
            chat("hi", "yes"),
            "marks no answer",
            "generation",
        ),
    ],
)
def test_templates_that_hide_the_answers_are_refused(
    byte_level: Any, template: str, record: Any, reason: str, detail: str
) -> None:
    messages = record["messages"] if isinstance(record, dict) else record
    with pytest.raises(RecordError) as caught:
        answers(byte_level, template, {"messages": messages})
    assert reason in caught.value.reason
    assert detail in caught.value.detail


def test_one_answer_is_fine_where_only_earlier_ones_are_rewritten(byte_level: Any) -> None:
    assert answers(byte_level, FORGETS, chat("hi", "I think. Yes")) == ["I think. Yes"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("text", "messages are not a list of messages"),
        ([], "messages are not a list of messages"),
        (["text"], "messages are not a list of messages"),
        ([{"role": "user", "content": "a"}], "a chat without assistant turns"),
        ([{"role": "human", "content": "a"}], "an unknown role"),
        ([{"role": None, "content": "a"}], "an unknown role"),
        ([{"from": "human", "value": "a"}], "messages in another format"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}]}], "a message without text"),
        ([{"role": "assistant"}], "a message without text"),
    ],
)
def test_messages_that_are_none_are_named(messages: object, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        check_messages(messages)
    assert caught.value.reason == reason


def test_a_tool_call_needs_no_text() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}], "name": None}
    assert check_messages([message]) == [{"role": "assistant", "tool_calls": [{"name": "f"}]}]


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1).map(" ".join), min_size=2, max_size=6))
def test_counted_tokens_are_those_of_the_answers(byte_level: Any, turns: list[str]) -> None:
    """Special tokens keep ChatML's answers apart from everything else, so they can be encoded alone."""
    tokenizer = with_template(byte_level, CHATML)
    spec = spec_of(tokenizer)
    turns = [f"and {turn}" for turn in turns]  # a letter first: the template's line break stays a token of its own
    text, spans = template_of(spec).assistant_spans(check_messages(chat(*turns)["messages"]))
    ids, lengths = Encoder(spec).encode_spans([text], [spans])
    answers_alone = [turn + "<|im_end|>" for turn in turns[1::2]]
    expected = [index for answer in answers_alone for index in tokenizer(answer, add_special_tokens=False)["input_ids"]]
    assert ids.tolist() == expected
    assert lengths.tolist() == [len(expected)]


def test_a_token_across_the_boundary_belongs_to_nobody(byte_level: Any) -> None:
    """In "[assistant] again" no special token separates; " again" is one token, "] a" would not be counted."""
    spec = spec_of(byte_level)
    encoder = Encoder(spec)
    text = "again and again"
    offsets = byte_level.backend_tokenizer.encode(text, add_special_tokens=False).offsets
    for begin in range(len(text)):
        for end in range(begin + 1, len(text) + 1):
            ids, _ = encoder.encode_spans([text], [[(begin, end)]])
            inside = [place for place, (a, b) in enumerate(offsets) if begin <= a and b <= end]
            whole, _ = encoder.encode([text])
            assert ids.tolist() == [whole[place] for place in inside]


def test_offsets_are_not_trimmed(byte_level: Any) -> None:
    """A post-processor can leave the space out of the offsets of " again": a mask would then count what it must not."""
    from copy import deepcopy

    from tokenizers import processors

    tokenizer = deepcopy(byte_level)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    encoder = Encoder(spec_of(tokenizer))
    text = "and again"
    assert encoder.encode_spans([text], [[(4, len(text))]])[0].tolist() == []
    assert len(encoder.encode_spans([text], [[(3, len(text))]])[0]) > 0
