"""Which characters of a chat the assistant wrote, exactly, or the reason why nobody can tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from outlex.calibration.faults import RecordError

__all__ = ["ChatTemplate", "check_messages"]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def check_messages(messages: object) -> list[dict[str, Any]]:
    """The messages of a chat, as a template takes them: keys whose value is None are left out.

    Raises:
        RecordError: not a list of messages with known roles and text, or no assistant among them.
    """
    if not isinstance(messages, list) or not messages:
        raise RecordError("messages are not a list of messages", f"{messages!r:.80}")
    checked = [_checked_message(message, number) for number, message in enumerate(messages, 1)]
    if not any(message["role"] == "assistant" for message in checked):
        roles = ", ".join(message["role"] for message in checked)
        raise RecordError("a chat without assistant turns", f"roles {roles:.80}")
    return checked


def _checked_message(message: object, number: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RecordError("messages are not a list of messages", f"message {number} is {message!r:.60}")
    if "role" not in message and "from" in message:
        raise RecordError("messages in another format", f"message {number} has 'from', expected 'role' and 'content'")
    role = message.get("role")
    if role not in _ROLES:
        raise RecordError("an unknown role", f"message {number} has role {role!r:.40}, expected {', '.join(_ROLES)}")
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise RecordError("a message without text", f"message {number} ({role}) has content {content!r:.60}")
    return {key: value for key, value in message.items() if value is not None}


class ChatTemplate:
    """A model's chat template, rendered as transformers renders it.

    Args:
        text: the Jinja template.
        special_tokens: what the template may ask for by name.
        special_texts: how special tokens are written.
    """

    def __init__(self, text: str, *, special_tokens: Mapping[str, str], special_texts: Sequence[str]) -> None:
        self._text = text
        self._special_tokens = dict(special_tokens)
        self._special_texts = tuple(special_texts)
        self._marks_answers = _GENERATION.search(text) is not None

    def assistant_spans(self, messages: list[dict[str, Any]]) -> tuple[str, list[tuple[int, int]]]:
        """The whole chat as text, and the character ranges ``[begin, end)`` that the model has to emit.

        A template with ``{% generation %}`` marks says so itself. Otherwise the chat is rendered up to each answer,
        with the generation prompt, and through it; each rendering must be the beginning of the next, and the answer
        is what lies between. The end-of-turn token belongs to it, the white space after that does not.

        Raises:
            RecordError: the template fails, or it writes earlier turns differently from how the model saw them.
        """
        if self._marks_answers:
            text, ranges = self._render(messages, marks=True)
            spans = [(begin, end) for begin, end in ranges if begin < end]
            if not spans:
                raise RecordError("the template marks no answer", "a {% generation %} block around nothing")
            return text, spans
        text, _ = self._render(messages)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, _ = self._render(messages[:index], add_generation_prompt=True)
            through = text if index + 1 == len(messages) else self._render(messages[: index + 1])[0]
            _require_beginning(
                before, through, f"the generation prompt is not what stands before answer {index + 1} afterwards"
            )
            _require_beginning(through, text, f"message {index + 1} is written differently once others follow it")
            spans.append((len(before), len(before) + self._emitted(through[len(before) :])))
        return text, spans

    def _emitted(self, answer: str) -> int:
        """Length of an answer without the white space that the template puts after its end-of-turn token."""
        stripped = answer.rstrip()
        ends_turn = any(stripped.endswith(text) for text in self._special_texts)
        return len(stripped) if ends_turn else len(answer)

    def _render(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False, marks: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, ranges = render_jinja_template(
                conversations=[messages],
                chat_template=self._text,
                add_generation_prompt=add_generation_prompt,
                return_assistant_tokens_mask=marks,
                **self._special_tokens,
            )
        except Exception as error:  # a template can do anything, and raise_exception is how it refuses a chat
            roles = ", ".join(message["role"] for message in messages)
            raise RecordError("the chat template fails", f"{error!s:.120} (roles {roles:.60})") from error
        return texts[0], ranges[0] if marks else []


def _require_beginning(beginning: str, whole: str, what: str) -> None:
    if whole.startswith(beginning):
        return
    place = next((i for i, (a, b) in enumerate(zip(beginning, whole, strict=False)) if a != b), len(whole))
    detail = f"{what}: {beginning[place : place + 30]!r} became {whole[place : place + 30]!r}"
    raise RecordError("the chat template rewrites earlier text", detail)
