"""Cutting a stream of bytes into blocks, the units of counting.

Where a block ends depends only on where it begins and on the bytes that follow, so a run that goes on after a kill
cuts the rest of a file exactly as the first run would have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

__all__ = ["BLOCK_BYTES", "MAX_LINE_BYTES", "Block", "Kind", "Piece", "line_pieces", "text_pieces"]

Kind = Literal["lines", "text", "rows"]

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20

# Tokenizers that split text by a regular expression start a new word at a single space between two letters, and the
# pieces of SentencePiece begin with their space: nothing is merged across this place.
_WORD_START = re.compile(rb"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")
_ANY_SPACE = re.compile(rb"(?<=\S) (?=\S)")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a stream.

    Attributes:
        data: the bytes; empty for a line that is too long, which is only reported.
        first_line: number of its first line in the stream, from 1.
        end: offset in the stream of the first byte after it.
        end_line: number of the line that follows.
        overlong: length of the line that was left out.
    """

    data: bytes
    first_line: int
    end: int
    end_line: int
    overlong: int = 0


@dataclass(frozen=True, kw_only=True)
class Block:
    """A unit of work, as it is sent to a process that counts.

    Attributes:
        source: index of the source.
        file: index of the file among all files.
        ordinal: index of the block in its file.
        path: of the file.
        kind: lines of JSON, one text, or the rows of a row group of a Parquet file (``ordinal`` says which).
        domain: of all its documents; None takes it from the record, or else ``fallback``.
        first_line: number of its first line or row, from 1.
        data: the bytes; empty for rows, which the process reads itself.
        overlong: bytes of a line that was left out, which is an error of this block.
        end, end_line: where the next block begins.
        position: how far the file on the disk has been read, bytes.
    """

    source: int
    file: int
    ordinal: int
    path: str
    kind: Kind
    domain: str | None
    fallback: str
    first_line: int
    data: bytes
    overlong: int
    end: int
    end_line: int
    position: int


def line_pieces(
    stream: IO[bytes],
    *,
    start: int = 0,
    first_line: int = 1,
    block_bytes: int = BLOCK_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Piece]:
    """Whole lines, about ``block_bytes`` at a time; a longer line is a piece of its own.

    Args:
        stream: at offset ``start``, where line ``first_line`` begins.
        start, first_line: 0 and 1, or ``end`` and ``end_line`` of an earlier piece.
        block_bytes: length of a piece unless its first line is longer.
        max_line_bytes: a longer line is not kept in memory; its piece is empty and gives its length.
    """
    rest, line = b"", first_line
    while True:
        buffer = bytearray(rest)
        ended = not _fill(stream, buffer, block_bytes)
        cut = buffer.rfind(b"\n", 0, block_bytes) + 1
        searched = min(len(buffer), block_bytes)
        while not cut:
            cut = buffer.find(b"\n", searched) + 1
            if cut or ended or len(buffer) > max_line_bytes:
                break
            searched = len(buffer)
            ended = not _fill(stream, buffer, searched + block_bytes)
        if not buffer:
            return
        if not cut and ended:
            cut = len(buffer)
        if not cut or cut > max_line_bytes:
            length, rest = _skip_line(stream, buffer, cut)
            yield Piece(data=b"", first_line=line, end=start + length, end_line=line + 1, overlong=length)
            start, line = start + length, line + 1
            continue
        data, rest = bytes(buffer[:cut]), bytes(buffer[cut:])
        n_lines = data.count(b"\n")
        yield Piece(data=data, first_line=line, end=start + cut, end_line=line + n_lines)
        start, line = start + cut, line + n_lines


def text_pieces(
    stream: IO[bytes], *, start: int = 0, first_line: int = 1, block_bytes: int = BLOCK_BYTES
) -> Iterator[Piece]:
    """A text in pieces of at most ``block_bytes``, cut before a space where the tokens do not change by it.

    Only a megabyte without any such space is cut elsewhere: between two characters.

    Args:
        stream: at offset ``start``, in line ``first_line``.
        start, first_line: 0 and 1, or ``end`` and ``end_line`` of an earlier piece.
        block_bytes: at least 8.
    """
    rest, line = b"", first_line
    while True:
        buffer = bytearray(rest)
        ended = not _fill(stream, buffer, block_bytes + 1)
        if not buffer:
            return
        cut = len(buffer) if ended and len(buffer) <= block_bytes else cut_place(bytes(buffer), block_bytes)
        data, rest = bytes(buffer[:cut]), bytes(buffer[cut:])
        n_lines = data.count(b"\n")
        yield Piece(data=data, first_line=line, end=start + cut, end_line=line + n_lines)
        start, line = start + cut, line + n_lines


def cut_place(data: bytes, limit: int) -> int:
    """The best place from 1 to ``limit`` at which to cut UTF-8 bytes that are longer than ``limit``."""
    for pattern in (_WORD_START, _ANY_SPACE):
        width = 1 << 12  # nearly always there is a space close to the end; the whole is searched only without one
        while True:
            begin = max(0, limit - width)
            places = [match.start() for match in pattern.finditer(data, begin, limit + 1)]
            if places and places[-1] > 0:
                return places[-1]
            if begin == 0:
                break
            width *= 16
    place = limit
    while place > limit - 4 and 0x80 <= data[place] < 0xC0:  # a continuation byte belongs to the character before
        place -= 1
    return place if place > 0 and not 0x80 <= data[place] < 0xC0 else limit


def _fill(stream: IO[bytes], buffer: bytearray, size: int) -> bool:
    """Read until the buffer has ``size`` bytes; False at the end of the stream."""
    while len(buffer) < size:
        chunk = stream.read(size - len(buffer))
        if not chunk:
            return False
        buffer += chunk
    return True


def _skip_line(stream: IO[bytes], buffer: bytearray, cut: int) -> tuple[int, bytes]:
    """Pass over a line that begins in the buffer: its length, and what was read after it."""
    if cut:
        return cut, bytes(buffer[cut:])
    length = len(buffer)
    while chunk := stream.read(BLOCK_BYTES):
        found = chunk.find(b"\n") + 1
        if found:
            return length + found, chunk[found:]
        length += len(chunk)
    return length, b""
