"""Counting a corpus: against the obvious reference, in several processes, after a kill, and with bad input."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import CHATML, chat, largest_file, sentence, with_template, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from outlex.calibration.checkpoint import read_checkpoint
from outlex.calibration.count import CountConfig, CountNews, CountResult, count_corpus
from outlex.calibration.stats import TokenStats
from outlex.errors import ArtifactError, InputError
from outlex.vocab.counts import count_tokens
from outlex.vocab.tokenizer_facts import facts_of


@pytest.fixture(scope="module")
def tokenizer(byte_level: Any) -> Any:
    return with_template(byte_level, CHATML)


def count(tokenizer: Any, *sources: object, checkpoint: Path | None = None, **options: Any) -> CountResult:
    options.setdefault("workers", 1)
    config = CountConfig(sources=tuple(map(str, sources)), **options)
    return count_corpus(config, tokenizer, checkpoint=checkpoint)


def reference(tokenizer: Any, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts and document counts, one document at a time."""
    n_entries = facts_of(tokenizer).n_entries
    rows = torch.stack([count_tokens([text], tokenizer, n_tokenizer=n_entries) for text in texts])
    return rows.sum(dim=0), (rows > 0).sum(dim=0)


def same(a: TokenStats, b: TokenStats, tmp_path: Path) -> bool:
    """Equal to the last byte of the file."""
    a.save(tmp_path / "a.stats")
    b.save(tmp_path / "b.stats")
    return (tmp_path / "a.stats").read_bytes() == (tmp_path / "b.stats").read_bytes()


# --- numbers -----------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=40) | st.sampled_from(["again and again", "日本語", ""]), min_size=1, max_size=20))
def test_counts_are_the_reference_counts(tokenizer: Any, tmp_path_factory: Any, texts: list[str]) -> None:
    path = write_jsonl(tmp_path_factory.mktemp("c") / "a.jsonl", [{"text": text} for text in texts])
    if not any(texts):
        return
    stats = count(tokenizer, path, block_bytes=64).stats
    counts, n_documents = reference(tokenizer, texts)
    assert stats.counts.tolist() == [counts.tolist()]
    assert stats.documents.tolist() == [n_documents.tolist()]
    assert stats.n_documents == (sum(bool(text) for text in texts),)
    assert stats.domains == ("a",)


def test_domains_chats_and_texts_are_kept_apart(tokenizer: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mixed.jsonl", [{"text": "again", "domain": "x"}, {"prompt": "and"}, chat("hi", "river")])
    (tmp_path / "notes.txt").write_text("the fox\n\njumps", encoding="utf-8")
    stats = count(tokenizer, tmp_path / "mixed.jsonl", f"y={tmp_path}/notes.txt", weights={"y": 2.0}).stats
    assert stats.domains == ("mixed", "x", "y")
    expected = {"x": ["again"], "mixed": ["and", "river<|im_end|>"], "y": ["the fox\n\njumps"]}
    for row, name in enumerate(stats.domains):
        assert stats.counts[row].tolist() == reference(tokenizer, expected[name])[0].tolist()
    assert stats.n_documents == (2, 1, 1)
    assert stats.weights == (1.0, 1.0, 2.0)
    assert [source["n_files"] for source in stats.sources] == [1, 1]


def test_content_leaves_the_template_out(byte_level: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [chat("hi", "river river", "hm", "again")])
    stats = count(with_template(byte_level, None), path, chats="content").stats
    counts, _ = reference(byte_level, ["river river", "again"])
    assert stats.counts[0].tolist() == counts.tolist()
    assert int(stats.documents.max()) == 1
    with pytest.raises(InputError, match="--chats content"):
        count(with_template(byte_level, None), path)


def test_long_documents_are_cut_without_a_change(tokenizer: Any, tmp_path: Path) -> None:
    text = sentence(5, 250_000)
    assert len(text) > 1 << 20
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text}, {"text": "and"}])
    (tmp_path / "b.txt").write_text(text, encoding="utf-8")
    result = count(tokenizer, f"a={path}", f"b={tmp_path}/b.txt")
    counts, _ = reference(tokenizer, [text])
    assert result.n_cut == 1
    assert result.stats.counts[1].tolist() == counts.tolist()
    assert result.stats.n_documents[0] == 2
    assert int(result.stats.documents[0].max()) == 2


def test_a_fillers_name_in_a_text_is_text(make_byte_level: Any, tmp_path: Path) -> None:
    plain, padded = make_byte_level(), make_byte_level(n_filler=3)
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"[PAD{len(plain)}] and again"}])
    a, b = count(plain, path).stats, count(padded, path).stats
    assert a.n_entries == b.n_entries
    assert torch.equal(a.counts, b.counts)
    assert a.tokenizer_fingerprint == b.tokenizer_fingerprint


@pytest.mark.parametrize("domain", [None, "d"])
def test_parquet_and_packed_files_count_like_json_lines(tokenizer: Any, tmp_path: Path, domain: str | None) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    records = [{"text": sentence(seed, 9), "domain": f"x{seed % 2}"} for seed in range(50)]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as packed:
        packed.write(path.read_bytes())
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "c.parquet", row_group_size=7)
    chats = [chat("hi", sentence(seed, 5)) for seed in range(9)]
    write_jsonl(tmp_path / "d.jsonl", chats)
    parquet.write_table(pyarrow.Table.from_pylist(chats), tmp_path / "d.parquet", row_group_size=4)
    prefix = f"{domain}=" if domain else ""
    wanted, *others = [
        count(tokenizer, f"{prefix}{tmp_path / name}", block_bytes=500).stats
        for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")
    ]
    for other in others:
        assert other.domains == wanted.domains == (("d",) if domain else ("x0", "x1"))
        assert torch.equal(other.counts, wanted.counts)
        assert torch.equal(other.documents, wanted.documents)
    a, b = (count(tokenizer, tmp_path / name).stats for name in ("d.jsonl", "d.parquet"))
    assert torch.equal(a.counts, b.counts)


# --- several processes, interruptions ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 1 MB in three files of all kinds, with a fault in it."""
    folder = tmp_path_factory.mktemp("corpus")
    records: list[Any] = [{"text": sentence(seed, 40), "domain": f"d{seed % 3}"} for seed in range(1500)]
    write_jsonl(folder / "a.jsonl", [*records[:700], ["no record"], *records[700:]])
    with gzip.open(folder / "b.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.writelines(json.dumps(chat("hi", sentence(seed, 60))) + "\n" for seed in range(500))
    (folder / "c.txt").write_text(sentence(1, 30_000), encoding="utf-8")
    return folder


def test_processes_and_block_sizes_do_not_change_a_bit(tokenizer: Any, corpus: Path, tmp_path: Path) -> None:
    alone = count(tokenizer, corpus / "a.jsonl", corpus / "b.jsonl.gz", on_error="skip")
    several = count(tokenizer, corpus / "a.jsonl", corpus / "b.jsonl.gz", on_error="skip", workers=2, block_bytes=5000)
    assert same(alone.stats, several.stats, tmp_path)
    assert alone.n_faults == several.n_faults == {"not JSON": 1}
    assert "a.jsonl, line 701" in several.faults[0]


def test_a_worker_passes_its_error_on(byte_level: Any, corpus: Path) -> None:
    with pytest.raises(InputError, match="no chat template") as caught:
        count(with_template(byte_level, None), corpus / "b.jsonl.gz", workers=2)
    assert caught.value.next_step is not None
    assert "--chats content" in caught.value.next_step


class StopError(Exception):
    """Breaks a run off."""


@pytest.mark.parametrize("n_tasks", [1, 5, 40])
def test_a_run_goes_on_where_it_was_broken_off(tokenizer: Any, corpus: Path, tmp_path: Path, n_tasks: int) -> None:
    config = CountConfig(sources=(str(corpus),), on_error="skip", workers=1, block_bytes=10_000, checkpoint_every_s=0)
    whole = count_corpus(config, tokenizer)
    checkpoint = tmp_path / "partial"
    n_seen = 0

    def stop_after(news: CountNews) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen == n_tasks:
            raise StopError

    with pytest.raises(StopError):
        count_corpus(config, tokenizer, checkpoint=checkpoint, on_news=stop_after)
    rest = count_corpus(config, tokenizer, checkpoint=checkpoint)
    assert rest.was_resumed
    assert same(whole.stats, rest.stats, tmp_path)
    assert (rest.n_faults, rest.n_bytes, rest.faults) == (whole.n_faults, whole.n_bytes, whole.faults)
    again = count_corpus(config, tokenizer, checkpoint=checkpoint)
    assert same(whole.stats, again.stats, tmp_path)


SCRIPT = """
import multiprocessing, sys
if __name__ == "__main__":
    from transformers import PreTrainedTokenizerFast
    from outlex.calibration.count import CountConfig, count_corpus
    folder, tokenizer, checkpoint = sys.argv[1:]
    def tell(news):
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    config = CountConfig(
        sources=(folder,), on_error="skip", workers=2, block_bytes=10_000, checkpoint_every_s=0)
    count_corpus(config, PreTrainedTokenizerFast.from_pretrained(tokenizer), checkpoint=checkpoint, on_news=tell)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see whether processes are gone")
def test_a_killed_run_leaves_no_process_and_goes_on_exactly(tokenizer: Any, corpus: Path, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    checkpoint = tmp_path / "partial"
    command = [sys.executable, str(tmp_path / "script.py"), str(corpus), str(tmp_path / "tokenizer"), str(checkpoint)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    n_entries = facts_of(tokenizer).n_entries
    children: list[int] = []
    for line in run.stdout:  # kills it as soon as something, and not everything, is kept
        children = [int(pid) for pid in line.split()]
        if checkpoint.exists() and read_checkpoint(checkpoint, n_entries=n_entries)[2].n_tokens > 0:
            break
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    config = CountConfig(sources=(str(corpus),), on_error="skip", workers=1, block_bytes=10_000)
    whole = count_corpus(config, tokenizer)
    kept = read_checkpoint(checkpoint, n_entries=n_entries)[2].n_tokens
    assert 0 < kept < sum(whole.stats.n_tokens)
    rest = count_corpus(config, tokenizer, checkpoint=checkpoint)
    assert rest.was_resumed
    assert same(whole.stats, rest.stats, tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    path, checkpoint = write_jsonl(tmp_path / "a.jsonl", [{"text": "and"}]), tmp_path / "partial"
    count(tokenizer, path, checkpoint=checkpoint)
    with pytest.raises(InputError, match="options"):
        count(tokenizer, path, checkpoint=checkpoint, text_field="text")
    with pytest.raises(InputError, match="sources"):
        count(tokenizer, f"x={path}", checkpoint=checkpoint)
    write_jsonl(path, [{"text": "and"}, {"text": "more"}])
    with pytest.raises(InputError, match=r"files: .*a\.jsonl") as caught:
        count(tokenizer, path, checkpoint=checkpoint)
    assert "--overwrite" in str(caught.value)
    checkpoint.write_bytes(b"rubbish")
    with pytest.raises(ArtifactError, match="--overwrite"):
        count(tokenizer, path, checkpoint=checkpoint)


def test_a_run_that_stopped_at_a_fault_can_go_on_with_skip(tokenizer: Any, corpus: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"block_bytes": 10_000, "checkpoint": tmp_path / "partial"}
    with pytest.raises(InputError, match="line 701"):
        count(tokenizer, corpus / "a.jsonl", **options)
    rest = count(tokenizer, corpus / "a.jsonl", on_error="skip", **options)
    assert rest.was_resumed
    assert same(rest.stats, count(tokenizer, corpus / "a.jsonl", on_error="skip").stats, tmp_path)


# --- bad input ---------------------------------------------------------------------------------------------


def test_a_bad_line_stops_or_is_skipped(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "and"}\n{"text": \n{"messages": [{"role": "user", "content": "x"}]}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: not JSON") as caught:
        count(tokenizer, path)
    assert "--on-error skip" in str(caught.value)
    result = count(tokenizer, path, on_error="skip")
    assert result.n_faults == {"a chat without assistant turns": 1, "not JSON": 1}
    assert result.stats.sources[0]["skipped"] == result.n_faults
    assert result.stats.n_documents == (1,)


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n'])
def test_an_empty_corpus_is_refused(tokenizer: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="not a single token"):
        count(tokenizer, tmp_path / "a.jsonl")


def test_a_truncated_file_stops_or_is_counted_up_to_there(tokenizer: Any, tmp_path: Path) -> None:
    lines = [{"text": f"{sentence(seed, 50)} {seed * seed}"} for seed in range(4000)]
    plain = write_jsonl(tmp_path / "plain.jsonl", lines)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(plain.read_bytes())[:-2000])
    write_jsonl(tmp_path / "b.jsonl", [{"text": "river"}])
    with pytest.raises(ArtifactError, match=r"a\.jsonl\.gz cannot be read to its end"):
        count(tokenizer, tmp_path / "a.jsonl.gz", block_bytes=10_000)
    result = count(tokenizer, path, tmp_path / "b.jsonl", on_error="skip", block_bytes=10_000)
    assert result.n_faults == {"the rest of a damaged file": 1}
    assert 1000 < result.stats.n_documents[0] < 4000
    assert result.stats.n_documents[1] == 1


def test_parquet_files_that_cannot_be_used(tokenizer: Any, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"body": ["a"], "n": [1]}), path)
    with pytest.raises(InputError, match="columns body, n"):
        count(tokenizer, path)
    assert sum(count(tokenizer, path, text_field="body").stats.n_tokens) == 1
    with pytest.raises(InputError, match="int64"):
        count(tokenizer, path, text_field="n")
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"", b"PAR1" + bytes(50) + b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"a\.parquet cannot be read"):
            count(tokenizer, path, text_field="body")
    write_jsonl(tmp_path / "b.jsonl", [{"body": "river"}])
    result = count(tokenizer, path, tmp_path / "b.jsonl", text_field="body", on_error="skip")
    assert result.n_faults == {"the rest of a damaged file": 1}


def test_too_many_domains_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "and", "domain": f"d{n}"} for n in range(200)])
    for block_bytes in (100, 1 << 20):
        with pytest.raises(InputError, match="--domain-field"):
            count(tokenizer, path, block_bytes=block_bytes)


def test_a_full_disk_is_told(tokenizer: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "and"}])
    with largest_file(100), pytest.raises(ArtifactError, match="free some space"):
        count(tokenizer, path, checkpoint=tmp_path / "partial")
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"sources": ()},
        {"sources": "a"},
        {"sources": ("a",), "workers": 0},
        {"sources": ("a",), "on_error": "ignore"},
        {"sources": ("a",), "weights": {"a": -1}},
        {"sources": ("a",), "weights": {"a": float("nan")}},
    ],
)
def test_impossible_configs_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        CountConfig(**options)


def test_a_weight_of_no_domain_is_found_before_counting(tokenizer: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "and"}])
    with pytest.raises(InputError, match="--weight"):
        count(tokenizer, f"a={path}", weights={"b": 1.0})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("and again"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "prompt", "messages", "domain", "role", "content"]) | st.text(max_size=3),
            inner | st.sampled_from(["user", "assistant", "a"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
junk = st.binary(max_size=30)
messages = st.fixed_dictionaries({"messages": st.lists(json_values, max_size=3)})


@given(st.lists((json_values | messages).map(lambda value: json.dumps(value).encode()) | junk, max_size=6))
def test_whatever_the_lines_say_skip_goes_on(tokenizer: Any, tmp_path_factory: Any, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(b"\n".join([*lines, b'{"text": "river", "domain": "last"}']))
    for block_bytes in (16, 1 << 20):
        stats = count(tokenizer, path, on_error="skip", block_bytes=block_bytes).stats
        assert stats.n_documents[stats.domains.index("last")] >= 1


@given(
    st.binary(max_size=200),
    st.sampled_from(["a.txt", "a.jsonl.gz", "a.parquet", "a.jsonl.zst", "a.txt.xz", "a.md.bz2"]),
)
def test_whatever_a_file_holds_the_error_is_ours(tokenizer: Any, tmp_path_factory: Any, data: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data)
    next_steps: list[str | None] = []
    for on_error in ("stop", "skip"):
        try:
            count(tokenizer, path, on_error=on_error)
        except (InputError, ArtifactError) as error:
            next_steps.append(error.next_step)
    assert all(next_steps)
