"""Records of a corpus that cannot be used: how they are named, counted and turned into an error."""

from __future__ import annotations

from dataclasses import dataclass

from outlex.errors import InputError, OutlexError

__all__ = ["Fault", "RecordError", "damage_fault", "fault_error"]

_REMEDIES = {
    "not JSON": "correct the line; a file that is one big JSON array has to be written with one record a line",
    "no text in it": "name the field that holds the text with --text-field",
    "the text is not a string": "name the field that holds the text with --text-field",
    "the domain is not a name": "name another field with --domain-field, or give the source a name: DOMAIN=PATH",
    "a chat without assistant turns": "leave it out, or count its text with --text-field",
    "messages in another format": "rewrite them as {'role': ..., 'content': ...}",
    "the chat template fails": "correct the chat; --chats content counts the answers without the template",
    "the chat template rewrites earlier text": (
        "the model's own answers cannot be found in such a template; --chats content counts their text alone"
    ),
    "not text": "convert it to UTF-8 or leave it out; the name of a packed file has to end in .gz, .bz2, .xz or .zst",
    "invalid UTF-8": "convert the file to UTF-8",
    "a line that is too long": "cut it into records of a few megabytes",
}


class RecordError(Exception):
    """A record that cannot be used. Never leaves this package.

    Args:
        reason: what kind of fault, in the same words each time, so that faults can be counted.
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A record that was not counted.

    Attributes:
        path: its file.
        line: line, or row of a Parquet file, from 1; None for a whole file.
        kind: "line" or "row".
        reason, detail: as in `RecordError`.
    """

    path: str
    line: int | None
    kind: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason} ({self.detail})"

    @property
    def place(self) -> str:
        """Where it is, for a message."""
        return self.path if self.line is None else f"{self.path}, {self.kind} {self.line}"


def fault_error(fault: Fault) -> InputError:
    """The error for the first fault when it has to end the work."""
    return InputError(
        f"{fault.place}: {fault.reason}",
        got=fault.detail,
        next_step=f"{_REMEDIES.get(fault.reason, 'correct the record')}; --on-error skip leaves such records out"
        " and says how many",
    )


def damage_fault(path: str, error: OutlexError) -> Fault:
    """What is noted of a file whose rest is left out because it cannot be read."""
    return Fault(path=path, line=None, kind="line", reason="the rest of a damaged file", detail=str(error.got))
