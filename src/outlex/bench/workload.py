"""The prompts of a benchmark: read from JSON lines, chosen over all domains, turned into token ids."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["PromptRecord", "encode_prompt", "read_prompts"]

_LINE = '{"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}, with "id" and "domain" if you like'


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """One prompt.

    Attributes:
        id: unique in its file.
        domain: the group it is reported with; "all" if the file names none.
        text: what the user says; None if the prompt is a conversation.
        messages: a conversation that ends with the user's turn; empty if the prompt is a text.
    """

    id: str
    domain: str
    text: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()

    def __post_init__(self) -> None:
        if (self.text is None) == (not self.messages):
            raise InputError(f"Prompt {self.id!r} must be a text or a conversation", expected=_LINE)


def read_prompts(path: str | os.PathLike[str], *, limit: int | None = None) -> list[PromptRecord]:
    """Read a file of JSON lines.

    Each line is an object with `prompt` (text) or `messages` (chat); `id` and `domain` are optional, other
    fields are ignored, and so are blank lines.

    Args:
        path: the file, UTF-8.
        limit: take this many, one from each domain in turn and in the order of the file, so that a short run
            sees every domain. None takes all, in the order of the file.

    Raises:
        InputError: no such file, a line that cannot be used (named by its number), an id twice, no prompt at
            all, or fewer than `limit`.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The prompts in {path.name} cannot be read",
            got=error,
            expected="a UTF-8 text file of JSON lines",
            next_step="check the path given as --prompts",
        ) from error
    records: list[PromptRecord] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line, where=f"{path.name}, line {number}", default_id=f"line-{number}")
        if record.id in line_of:
            raise InputError(
                f"{path.name}, line {number}: the id was used before",
                got=f"{record.id!r}, also in line {line_of[record.id]}",
                expected="every id once",
                next_step="rename one of the two, or leave ids out",
            )
        line_of[record.id] = number
        records.append(record)
    if not records:
        raise InputError(
            f"{path.name} holds no prompt",
            got="an empty file",
            expected=_LINE,
            next_step="add at least one line",
        )
    return records if limit is None else _round_robin(records, limit, path.name)


def encode_prompt(target: LanguageModel, record: PromptRecord, *, raw: bool) -> list[int]:
    """Token ids of a prompt, as every method of a benchmark gets them.

    Args:
        target: its tokenizer and chat template are used.
        record: the prompt.
        raw: take a text as it is. Otherwise it becomes the user's turn of a chat if the model has a chat
            template.

    Raises:
        InputError: a conversation with `raw`, or for a model without a chat template.
    """
    if record.text is None:
        if raw:
            raise InputError(
                f"Prompt {record.id!r} is a conversation, which only a chat template turns into text",
                got="raw prompts asked for",
                expected="prompts with a field `prompt`",
                next_step="leave raw off, or write the prompts out as text",
            )
        return target.encode_chat(record.messages)
    if raw or not target.tokenizer.chat_template:
        return target.encode(record.text)
    return target.encode_chat([{"role": "user", "content": record.text}])


def _parse(line: str, *, where: str, default_id: str) -> PromptRecord:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"{error}: {line[:60]!r}") from error
    if not isinstance(fields, dict):
        raise _bad(where, f"a JSON {type(fields).__name__}")
    text, messages = fields.get("prompt"), fields.get("messages")
    if (text is None) == (messages is None):
        raise _bad(where, f"fields {sorted(fields)}")
    if text is not None and not (isinstance(text, str) and text.strip()):
        raise _bad(where, f"prompt {text!r:.60}")
    record_id, domain = fields.get("id", default_id), fields.get("domain", "all")
    if not isinstance(record_id, (str, int)) or not isinstance(domain, str) or not domain:
        raise _bad(where, f"id {record_id!r:.60}, domain {domain!r:.60}")
    return PromptRecord(
        id=str(record_id),
        domain=domain,
        text=text,
        messages=() if messages is None else _turns(messages, where),
    )


def _turns(messages: Any, where: str) -> tuple[Mapping[str, str], ...]:
    fine = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    )
    if not fine or not messages:
        raise _bad(where, f"messages {messages!r:.60}")
    if messages[-1]["role"] == "assistant":
        raise _bad(where, "a conversation whose last turn is the answer; cut it off")
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def _bad(where: str, got: str) -> InputError:
    return InputError(f"{where} is not a prompt", got=got, expected=_LINE, next_step="correct or delete that line")


def _round_robin(records: Sequence[PromptRecord], limit: int, name: str) -> list[PromptRecord]:
    if not 1 <= limit <= len(records):
        raise InputError(
            "That many prompts cannot be taken",
            got=limit,
            expected=f"1 to {len(records)}, what {name} holds",
            next_step="ask for fewer, or give a longer file",
        )
    queues: dict[str, list[PromptRecord]] = {}
    for record in records:
        queues.setdefault(record.domain, []).append(record)
    longest = max(len(queue) for queue in queues.values())
    turns = [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]
    return turns[:limit]
