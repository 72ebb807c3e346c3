"""Counting files that were whole once, and chats that are none: every fault is named, and nothing else goes wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import CHATML, chat, sentence, with_template, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from outlex.calibration.count import CountConfig, CountResult, count_corpus
from outlex.errors import ArtifactError, InputError

TEXTS = [f"{sentence(seed, 12)} {seed}" for seed in range(40)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def count(tokenizer: Any, *sources: object, **options: Any) -> CountResult:
    return count_corpus(CountConfig(sources=tuple(map(str, sources)), workers=1, **options), tokenizer)


def as_parquet(data: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sink = io.BytesIO()
    rows = [json.loads(line) for line in data.splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=8)
    return sink.getvalue()


def as_zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor().compress(data))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "a.jsonl": bytes,
    "a.txt": bytes,
    "a.jsonl.gz": gzip.compress,
    "a.jsonl.bz2": bz2.compress,
    "a.jsonl.xz": lzma.compress,
    "a.jsonl.zst": as_zstd,
    "a.parquet": as_parquet,
}


@pytest.fixture(scope="module", params=list(PACKERS))
def whole(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """A name, and what a whole file of this name holds."""
    return request.param, PACKERS[request.param](LINES)


@given(data=st.data())
def test_a_file_that_was_cut_or_changed_is_counted_or_named(
    byte_level: Any, tmp_path_factory: Any, whole: tuple[str, bytes], data: st.DataObject
) -> None:
    name, content = whole
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    if damaged:
        places = st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255))
        for place, value in data.draw(st.lists(places, max_size=3)):
            damaged[place] = value
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(damaged)
    caught: list[InputError | ArtifactError] = []
    try:
        count(byte_level, path, block_bytes=400)
    except (InputError, ArtifactError) as error:
        caught.append(error)
    for one in caught:
        assert str(path) in str(one) or "not a single token" in one.what
        assert one.next_step
    last = write_jsonl(path.parent / "last.jsonl", [{"text": "river"}])
    skipped = count(byte_level, path, f"last={last}", on_error="skip", block_bytes=400)
    stats = skipped.stats
    assert stats.n_documents[stats.domains.index("last")] == 1
    if damaged == content:
        assert not skipped.n_faults
        assert sum(stats.n_documents) == (1 if name == "a.txt" else len(TEXTS)) + 1


RAISES = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("record", "needle"),
    [
        ('{"text": ', "not JSON"),
        (json.dumps({"messages": [{"role": "user", "content": "hi"}]}), "a chat without assistant turns"),
        (json.dumps({"messages": [{"role": "bot", "content": "hi"}]}), "an unknown role"),
        (json.dumps({"messages": [{"from": "gpt", "value": "hi"}]}), "messages in another format"),
        (json.dumps({"messages": [{"role": "assistant", "content": "hi"}]}), "template fails"),
    ],
)
def test_a_record_is_named_by_file_and_line_and_can_be_skipped(
    byte_level: Any, tmp_path: Path, record: str, needle: str
) -> None:
    tokenizer = with_template(byte_level, RAISES)
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join([json.dumps(chat("hi", "yes")), record, json.dumps({"text": "and"})]), encoding="utf-8")
    with pytest.raises(InputError, match=rf"chats\.jsonl, line 2: .*{needle}") as caught:
        count(tokenizer, path)
    assert "--on-error skip" in str(caught.value)
    result = count(tokenizer, path, on_error="skip")
    assert sum(result.n_faults.values()) == 1
    assert needle in next(iter(result.n_faults))
    assert "line 2" in result.faults[0]
    assert result.stats.n_documents == (2,)


def test_a_corpus_of_nothing_but_bad_records_says_so(byte_level: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{\n[\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"not a single token[\s\S]*2 records left out[\s\S]*line 1"):
        count(byte_level, path, on_error="skip")
