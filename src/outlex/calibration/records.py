"""From a block of a file to documents: a text, or the messages of a chat, each with its domain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from outlex.calibration.blocks import MAX_LINE_BYTES, Block
from outlex.calibration.faults import Fault, RecordError

__all__ = ["CHAT_FIELD", "TEXT_FIELDS", "Document", "documents", "fault_of", "require_no_surrogates"]

CHAT_FIELD = "messages"
TEXT_FIELDS = ("text", "prompt")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Document:
    """One text or chat.

    Attributes:
        domain: whose counts it belongs to.
        line: where it begins, for messages.
        text: the text; None for a chat.
        messages: the chat's messages, unchecked; None for a text.
    """

    domain: str
    line: int
    text: str | None
    messages: object = None


def documents(block: Block, *, text_field: str | None, domain_field: str) -> Iterator[Document | Fault]:
    """Everything in a block, in order; what cannot be used comes as a `Fault`.

    Raises:
        ArtifactError: a Parquet file that cannot be read.
    """
    if block.overlong:
        detail = f"{block.overlong:,} bytes, and {MAX_LINE_BYTES:,} at most are read"
        yield _fault(block, block.first_line, RecordError("a line that is too long", detail))
    elif block.kind == "text":
        try:
            yield Document(block.domain or block.fallback, block.first_line, _plain_text(block))
        except RecordError as error:
            yield _fault(block, block.first_line, error)
    elif block.kind == "lines":
        for line, data in enumerate(block.data.split(b"\n"), block.first_line):
            if not data or data.isspace():
                continue
            try:
                yield _document(block, line, _json(data, is_first=line == 1), text_field, domain_field)
            except RecordError as error:
                yield _fault(block, line, error)
    else:
        from outlex.calibration.parquet import read_rows

        columns = (CHAT_FIELD, *TEXT_FIELDS, domain_field) if text_field is None else (text_field, domain_field)
        for row, record in enumerate(read_rows(block.path, block.ordinal, columns=columns), block.first_line):
            try:
                yield _document(block, row, record, text_field, domain_field)
            except RecordError as error:
                yield _fault(block, row, error)


def fault_of(block: Block, document: Document, error: RecordError) -> Fault:
    """The fault of a document that turned out to be unusable later on."""
    return _fault(block, document.line, error)


def _fault(block: Block, line: int, error: RecordError) -> Fault:
    kind = "row" if block.kind == "rows" else "line"
    return Fault(path=block.path, line=line, kind=kind, reason=error.reason, detail=error.detail)


def _json(data: bytes, *, is_first: bool) -> dict[str, Any]:
    text = _decoded(data.removeprefix(_BOM) if is_first else data)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError("not JSON", f"{error!s:.80}: {text.strip()!r:.60}") from error
    if not isinstance(record, dict):
        raise RecordError("not JSON", f"a {type(record).__name__}, expected an object {{...}}")
    return record


def _plain_text(block: Block) -> str:
    place = block.data.find(b"\0")
    if place >= 0:
        raise RecordError("not text", f"a NUL byte at byte {place}")
    return _decoded(block.data.removeprefix(_BOM) if block.ordinal == 0 else block.data)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("invalid UTF-8", f"{error.reason} at byte {error.start}") from error


def _document(
    block: Block, line: int, record: Mapping[str, Any], text_field: str | None, domain_field: str
) -> Document:
    domain = block.domain
    if domain is None:
        domain = record.get(domain_field, block.fallback)
        if domain is None:
            domain = block.fallback
        if not isinstance(domain, str) or not domain:
            raise RecordError("the domain is not a name", f"{domain_field} is {domain!r:.60}")
        _require_encodable(domain)
    if text_field is None and record.get(CHAT_FIELD) is not None:
        return Document(domain, line, None, record[CHAT_FIELD])
    fields = TEXT_FIELDS if text_field is None else (text_field,)
    name = next((name for name in fields if record.get(name) is not None), None)
    if name is None:
        detail = f"fields {', '.join(map(repr, record)):.80}, expected {' or '.join((CHAT_FIELD, *TEXT_FIELDS))}"
        raise RecordError("no text in it", detail if text_field is None else f"there is no {text_field!r}")
    text = record[name]
    if not isinstance(text, str):
        raise RecordError("the text is not a string", f"{name} is {text!r:.60}")
    _require_encodable(text)
    return Document(domain, line, text)


def _require_encodable(text: str) -> None:
    """JSON can spell half of a surrogate pair, which is no character and which no tokenizer takes."""
    if not text.isascii():
        require_no_surrogates(text)


def require_no_surrogates(text: str) -> None:
    """Refuse text that cannot be written as UTF-8.

    Raises:
        RecordError: a lone surrogate is in it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("half of a surrogate pair", f"{text[error.start]!r} at character {error.start}") from error
