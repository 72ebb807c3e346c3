"""Files, patterns, packed files and blocks: nothing is lost, and what is damaged is noticed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from pathlib import Path
from typing import IO, Any

import pytest
from corpora import sentence
from hypothesis import given
from hypothesis import strategies as st

from outlex.calibration.blocks import Block, Piece, cut_place, line_pieces, text_pieces
from outlex.calibration.corpus import format_of, list_files, parse_source
from outlex.calibration.encoding import Encoder, spec_of
from outlex.calibration.faults import Fault
from outlex.calibration.hub_data import hub_files
from outlex.calibration.opening import open_file, reading_errors
from outlex.calibration.records import documents
from outlex.errors import InputError


class Dribble(io.BytesIO):
    """Gives a few bytes at a time, as packed files and networks do."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(3, size) if size is not None and size >= 0 else size)


def lines_of(stream: IO[bytes], start: int = 0, first_line: int = 1) -> list[Piece]:
    return list(line_pieces(stream, start=start, first_line=first_line, block_bytes=8, max_line_bytes=20))


def texts_of(stream: IO[bytes], start: int = 0, first_line: int = 1) -> list[Piece]:
    return list(text_pieces(stream, start=start, first_line=first_line, block_bytes=8))


# --- blocks ------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"\n", b"ab", b"{}\n", b"x" * 9, b"y" * 25, b" ", "é".encode()])).map(b"".join))
def test_lines_stay_whole_and_only_overlong_ones_are_missing(data: bytes) -> None:
    pieces = lines_of(io.BytesIO(data))
    expected = [line for line in data.splitlines(keepends=True) if len(line) <= 20]
    assert b"".join(piece.data for piece in pieces) == b"".join(expected)
    assert sum(len(piece.data) + piece.overlong for piece in pieces) == len(data)
    assert sum(piece.overlong > 0 for piece in pieces) == len(data.splitlines()) - len(expected)
    assert all(piece.data.endswith(b"\n") or piece.end == len(data) for piece in pieces if piece.data)
    for piece in pieces:
        assert piece.first_line == 1 + data[: piece.end - len(piece.data) - piece.overlong].count(b"\n")


@given(st.lists(st.sampled_from(["\n", "ab", " ", "x" * 9, "é", "日本", "  "])).map("".join))
def test_texts_are_cut_between_characters_and_nothing_is_lost(text: str) -> None:
    pieces = texts_of(io.BytesIO(text.encode()))
    assert "".join(piece.data.decode() for piece in pieces) == text
    assert all(0 < len(piece.data) <= 8 for piece in pieces)


@given(st.binary(max_size=120) | st.lists(st.sampled_from([b"a", b" ", b"\n", b"b" * 12])).map(b"".join))
def test_cutting_goes_on_anywhere_and_however_the_bytes_come(data: bytes) -> None:
    for cut in (lines_of, texts_of):
        pieces = cut(io.BytesIO(data))
        assert cut(Dribble(data)) == pieces
        for place, piece in enumerate(pieces, 1):
            stream = io.BytesIO(data)
            stream.seek(piece.end)
            assert cut(stream, piece.end, piece.end_line) == pieces[place:]


@given(st.binary(min_size=10, max_size=60))
def test_a_cut_always_makes_progress(data: bytes) -> None:
    assert 1 <= cut_place(data, 8) <= 8


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "qwen05", "smol135", "gemma270"])
def test_tokens_do_not_change_where_a_text_is_cut(
    name: str, request: pytest.FixtureRequest, real_tokenizer: Any
) -> None:
    is_toy = name in ("byte_level", "sentencepiece")
    tokenizer = request.getfixturevalue(name) if is_toy else real_tokenizer(name)
    encoder = Encoder(spec_of(tokenizer))
    text = "\n".join(sentence(seed, 30) + " it's 3 a.m., x  =  y ...\r\n\r\n— and on" for seed in range(40))
    pieces = [piece.data.decode() for piece in text_pieces(io.BytesIO(text.encode()), block_bytes=97)]
    assert len(pieces) > 50
    whole, _ = encoder.encode([text])
    parts, _ = encoder.encode(pieces)
    assert parts.tolist() == whole.tolist()


# --- files -------------------------------------------------------------------------------------------------


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n", encoding="utf-8")


def found(folder: Path, *given_sources: str) -> list[str]:
    sources = [parse_source(given_source) for given_source in given_sources]
    return [os.path.relpath(file.path, folder) for file in list_files(sources)]


def test_folders_patterns_and_files_are_found_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.jsonl", "a/x.txt", "a/y.jsonl.gz", "a/deep/z.parquet", "a/.hidden/q.txt", "a/picture.png")
    assert found(tmp_path, f"{tmp_path}/a") == ["a/deep/z.parquet", "a/x.txt", "a/y.jsonl.gz"]
    assert found(tmp_path, f"d={tmp_path}/**/*.jsonl*") == ["a/y.jsonl.gz", "b.jsonl"]
    assert found(tmp_path, f"{tmp_path}/b.jsonl", f"{tmp_path}/a/x.txt") == ["b.jsonl", "a/x.txt"]


def test_sources_name_their_domain() -> None:
    source = parse_source("code=src/**/*.py")
    assert (source.domain, source.place, source.fallback) == ("code", "src/**/*.py", "src")
    assert parse_source("data/chats.jsonl.gz").fallback == "chats"
    assert parse_source("./a=b.txt").domain is None
    assert parse_source("hub:owner/name:train").fallback == "owner/name:train"
    assert parse_source("C4=hub:owner/name").domain == "C4"


def test_formats_come_from_names() -> None:
    assert format_of("A.JSONL.GZ") == ("jsonl", "gzip")
    assert format_of("a.tar.gz") == (None, "gzip")
    assert format_of("notes.md.zst") == ("text", "zstd")


@pytest.mark.parametrize(
    ("given_source", "needle"),
    [
        ("{0}/nothing.jsonl", "check the path"),
        ("{0}/*.nothing", "pattern that matches no file"),
        ("{0}/empty", "folder without files"),
        ("{0}/a.xyz", "--format"),
        ("{0}/a.parquet.gz", "unpack it first"),
        ("=x", "DOMAIN=PATH"),
        ("  ", "DOMAIN=PATH"),
        ("hub:nobody", "hub:OWNER/NAME"),
    ],
)
def test_places_without_files_are_explained(tmp_path: Path, given_source: str, needle: str) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path, "a.xyz", "a.parquet.gz")
    with pytest.raises(InputError, match=needle.replace("*", r"\*")):
        found(tmp_path, given_source.format(tmp_path))


def test_a_file_is_not_counted_twice(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl")
    with pytest.raises(InputError, match="leave one of the paths out"):
        found(tmp_path, str(tmp_path), f"x={tmp_path}/a.jsonl")


class FakeHub:
    """Lists what a data set's branches hold, as huggingface_hub's file system does."""

    def __init__(self, *paths: str, converted: tuple[str, ...] = ()) -> None:
        self._branches = {"main": paths, "refs%2Fconvert%2Fparquet": converted}

    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, Any]]:
        root, branch = path.split("@")
        assert (root, detail) == ("datasets/o/n", True)
        if not self._branches[branch]:
            raise FileNotFoundError(path)
        return {f"{path}/{name}": {"size": 10, "blob_id": f"hash of {name}"} for name in self._branches[branch]}


def hub(name: str, *paths: str, converted: tuple[str, ...] = ()) -> list[str]:
    files = hub_files(name, source=0, filesystem=FakeHub(*paths, converted=converted))
    assert all(file.path.startswith("hf://datasets/o/n@") and file.identity.startswith("hash of") for file in files)
    return [file.path.partition("@")[2] for file in files]


def test_hub_files_are_those_of_the_split() -> None:
    one = ("default/train/1.parquet", "default/train/0.parquet", "default/test/0.parquet")
    branch = "refs%2Fconvert%2Fparquet/default"
    assert hub("o/n", converted=one) == [f"{branch}/train/0.parquet", f"{branch}/train/1.parquet"]
    assert hub("o/n:test", converted=one) == [f"{branch}/test/0.parquet"]
    assert hub("o/n", converted=("x/partial-train/0.parquet",)) == [
        "refs%2Fconvert%2Fparquet/x/partial-train/0.parquet"
    ]
    own = ("README.md", "train-0.jsonl.gz", "test.jsonl", "train.bin")
    assert hub("o/n", *own) == ["main/train-0.jsonl.gz"]


def test_hub_names_that_leave_a_choice_list_it() -> None:
    two = ("en/train/0.parquet", "de/train/0.parquet")
    assert hub("o/n/de", converted=two) == ["refs%2Fconvert%2Fparquet/de/train/0.parquet"]
    for name in ("o/n", "o/n/fr"):
        with pytest.raises(InputError, match="de, en"):
            hub(name, converted=two)
    with pytest.raises(InputError, match="train"):
        hub("o/n/de:test", converted=two)
    with pytest.raises(InputError, match="check the spelling"):
        hub("o/n")


# --- packed files ------------------------------------------------------------------------------------------


def packed(data: bytes, compression: str) -> bytes:
    if compression == "zstd":
        zstandard = pytest.importorskip("zstandard")
        return bytes(zstandard.ZstdCompressor().compress(data))
    if compression == "gzip":
        return gzip.compress(data)
    return bz2.compress(data) if compression == "bz2" else lzma.compress(data)


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_packed_files_come_out_whole_and_damage_is_noticed(tmp_path: Path, compression: str) -> None:
    text = sentence(3, 50_000).encode()
    path = tmp_path / "file"

    def read() -> bytes:
        with open_file(str(path), compression=compression) as opened:
            return opened.stream.read()

    # several members, one after the other, as `cat a.gz b.gz` makes them
    path.write_bytes(packed(text, compression) + packed(b"", compression) + packed(text[::-1], compression))
    assert read() == text + text[::-1]
    with open_file(str(path), compression=compression) as opened:
        opened.skip_to(len(text) - 7)
        assert opened.stream.read(10) == text[-7:] + text[::-1][:3]
    whole = packed(text, compression)
    for damaged in (whole[:-9], whole[: len(whole) // 2], b"no " + whole, whole[:60] + b"????" + whole[64:]):
        path.write_bytes(damaged)
        with pytest.raises(reading_errors()):
            read()


# --- records -----------------------------------------------------------------------------------------------


def block(data: bytes, kind: Any = "lines", domain: str | None = None, ordinal: int = 0) -> Block:
    return Block(
        source=0,
        file=0,
        ordinal=ordinal,
        path="file",
        kind=kind,
        domain=domain,
        fallback="fallback",
        first_line=1,
        data=data,
        overlong=0,
        end=len(data),
        end_line=1,
        position=0,
    )


def read(data: bytes, **options: Any) -> list[Any]:
    fields = {"text_field": options.pop("text_field", None), "domain_field": options.pop("domain_field", "domain")}
    return list(documents(block(data, **options), **fields))


def test_records_become_documents() -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"prompt": "b", "domain": "d"}\n{"messages": [1], "text": "c"}'
    first, second, third = read(data)
    assert (first.text, first.domain, first.line) == ("a", "fallback", 1)
    assert (second.text, second.domain, second.line) == ("b", "d", 4)
    assert (third.text, third.messages) == (None, [1])
    assert [document.domain for document in read(data, domain="given")] == ["given"] * 3
    (document,) = read(b'{"text": "a", "body": "b"}', text_field="body")
    assert document.text == "b"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["text"]', "not JSON"),
        (b'{"text": 1}', "the text is not a string"),
        (b'{"body": "a"}', "no text in it"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
        (b'{"text": "\xff"}', "invalid UTF-8"),
        (b'{"text": "a", "domain": 3}', "the domain is not a name"),
        (b"1" * 5000, "not JSON"),
    ],
)
def test_unusable_lines_are_named(data: bytes, reason: str) -> None:
    before, fault, after = read(b'{"text": "a"}\n' + data + b'\n{"text": "b"}\n')
    assert isinstance(fault, Fault)
    assert (fault.line, fault.reason) == (2, reason)
    assert (before.text, after.text) == ("a", "b")


def test_binary_files_are_no_text() -> None:
    assert [fault.reason for fault in read(b"\x7fELF\0\0", kind="text")] == ["not text"]
    assert [fault.reason for fault in read(b"caf\xe9", kind="text")] == ["invalid UTF-8"]
    assert [document.text for document in read(b"\xef\xbb\xbfa", kind="text")] == ["a"]
    assert [document.text for document in read(b"\xef\xbb\xbfa", kind="text", ordinal=1)] == ["\ufeffa"]


@given(st.binary(max_size=300), st.sampled_from(["lines", "text"]))
def test_no_bytes_raise_anything(data: bytes, kind: str) -> None:
    for found_item in read(data, kind=kind):
        assert isinstance(found_item, Fault) or isinstance(found_item.text, str) or found_item.messages is not None
