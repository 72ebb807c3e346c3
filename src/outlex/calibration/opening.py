"""Opening files of a corpus, compressed or not, on this machine or on the model hub, as streams of bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from outlex.errors import ArtifactError, InputError

__all__ = ["COMPRESSIONS", "HUB_SCHEME", "OpenFile", "damaged_file", "open_file", "open_raw", "reading_errors"]

HUB_SCHEME = "hf://"
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd", ".zstd": "zstd"}
# A few bytes can stand for 128 kB of one character: this bounds what a piece unpacks to.
_ZSTD_INPUT_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """A file that is being read.

    Attributes:
        stream: its contents, unpacked.
        raw: the bytes on the disk, whose position tells how far reading has come.
        is_compressed: whether reaching an offset means unpacking everything before it.
    """

    stream: IO[bytes]
    raw: IO[bytes]
    is_compressed: bool

    def skip_to(self, offset: int) -> None:
        """Go forward to an offset of the unpacked contents, in a fresh file."""
        if not self.is_compressed:
            self.stream.seek(offset)
            return
        while offset > 0:
            chunk = self.stream.read(min(offset, 1 << 20))
            if not chunk:
                raise EOFError("it is shorter than it was")
            offset -= len(chunk)


@contextmanager
def open_file(path: str, *, compression: str | None) -> Iterator[OpenFile]:
    """Open a file of a corpus.

    Args:
        path: a path, or a URL ``hf://datasets/OWNER/NAME@REVISION/FILE``.
        compression: a value of `COMPRESSIONS`, or None.

    Raises:
        InputError: the package that unpacks zstd is missing.
        OSError: the file cannot be opened; see `reading_errors` for what reading can raise.
    """
    with open_raw(path) as raw:
        yield OpenFile(stream=_unpacked(raw, compression), raw=raw, is_compressed=compression is not None)


@contextmanager
def open_raw(path: str) -> Iterator[IO[bytes]]:
    """The bytes of the file as they are on the disk or on the hub."""
    if path.startswith(HUB_SCHEME):
        from huggingface_hub import HfFileSystem

        remote: Any = HfFileSystem()
        with remote.open(path, "rb") as stream:
            yield cast(IO[bytes], stream)
    else:
        with open(path, "rb") as stream:
            yield stream


def reading_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file can raise."""
    kinds: list[type[Exception]] = [OSError, EOFError, zlib.error, lzma.LZMAError]
    try:
        import zstandard
    except ImportError:
        return tuple(kinds)
    return (*kinds, zstandard.ZstdError)


def damaged_file(path: str, error: object) -> ArtifactError:
    """The error for a file that cannot be read to its end."""
    return ArtifactError(
        f"{path} cannot be read to its end",
        got=str(error) or type(error).__name__,
        expected="a file that is whole, and packed as its name says",
        next_step="copy or download it again, or pass --on-error skip to leave the rest of it out",
    )


def _unpacked(raw: IO[bytes], compression: str | None) -> IO[bytes]:
    if compression == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))
    if compression == "bz2":
        return cast(IO[bytes], bz2.BZ2File(raw, mode="rb"))
    if compression == "xz":
        return cast(IO[bytes], lzma.LZMAFile(raw, mode="rb"))
    if compression == "zstd":
        return cast(IO[bytes], io.BufferedReader(_ZstdFile(raw), buffer_size=1 << 20))
    return raw


class _ZstdFile(io.RawIOBase):
    """Frames one after the other. Unlike zstandard's own reader it notices that the last one is cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise InputError(
                "Files packed with zstd need a package that is not installed",
                got="missing: zstandard",
                next_step="pip install 'outlex[corpus]'",
            ) from error
        self._raw = raw
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._packed = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._packed:
                self._packed = self._raw.read(_ZSTD_INPUT_BYTES)
                if not self._packed:
                    if self._frame is not None:
                        raise EOFError("the zstd stream is cut off")
                    return 0
            if self._frame is None:
                self._frame = self._new_frame()
            self._ready = self._frame.decompress(self._packed)
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n
