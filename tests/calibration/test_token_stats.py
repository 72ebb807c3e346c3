"""TokenStats: what can be stored, what can be added up, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from corpora import largest_file
from hypothesis import given
from hypothesis import strategies as st

from outlex.calibration.stats import TokenStats
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.vocab.ranking import read_ranking

N_ENTRIES = 4


def stats(rows: dict[str, list[int]], *, fingerprint: str = "f", weights: dict[str, float] | None = None) -> TokenStats:
    """Counts by domain; every occurrence in a document of its own."""
    names = sorted(rows)
    counts = torch.tensor([rows[name] for name in names], dtype=torch.int64)
    return TokenStats(
        domains=tuple(names),
        counts=counts,
        documents=counts.clone(),
        n_documents=tuple(sum(rows[name]) for name in names),
        weights=tuple((weights or {}).get(name, 1.0) for name in names),
        tokenizer_fingerprint=fingerprint,
        sources=({"source": "a.jsonl"},),
    )


def same(a: TokenStats, b: TokenStats) -> bool:
    return torch.equal(a.counts, b.counts) and torch.equal(a.documents, b.documents) and a._body() == b._body()


def test_save_and_load_keep_everything_and_equal_statistics_give_equal_bytes(tmp_path: Path) -> None:
    first = stats({"b": [1, 0, 2, 0], "a": [0, 5, 0, 0]}, weights={"b": 0.5})
    first.save(tmp_path / "deep" / "one")
    loaded = TokenStats.load(tmp_path / "deep" / "one")
    assert same(first, loaded)
    assert loaded.domains == ("a", "b")
    assert loaded.n_tokens == (5, 3)
    loaded.save(tmp_path / "two")
    assert (tmp_path / "deep" / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_total_weighs_the_domains() -> None:
    both = stats({"a": [0, 5, 0, 0], "b": [1, 0, 2, 0]}, weights={"b": 0.5})
    assert both.total().tolist() == [0.5, 5, 1, 0]
    assert both.total(weighted=False).tolist() == [1, 5, 2, 0]
    assert both.with_weights({"a": 2}).total().tolist() == [0.5, 10, 1, 0]
    with pytest.raises(InputError, match="--weight"):
        both.with_weights({"c": 1})


rows = st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1)


@given(st.lists(rows, min_size=3, max_size=3, unique_by=lambda row: repr(sorted(row.items()))))
def test_merging_adds_up_in_any_order(parts: list[dict[str, list[int]]]) -> None:
    a, b, c = map(stats, parts)
    at_once = a.merge([b, c])
    assert same(at_once, a.merge([b]).merge([c]))
    turned = c.merge([a, b])
    assert torch.equal(turned.counts, at_once.counts)
    assert turned.parts == at_once.parts
    for row, name in enumerate(at_once.domains):
        wanted = [sum(part.get(name, [0] * 4)[token] for part in parts) for token in range(N_ENTRIES)]
        assert at_once.counts[row].tolist() == wanted
        assert at_once.n_documents[row] == sum(wanted)


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(MismatchError, match="--tokenizer"):
        stats({"a": [1, 0, 0, 0]}).merge([stats({"a": [0, 1, 0, 0]}, fingerprint="g")])


def test_one_counting_run_is_added_once() -> None:
    one, other = stats({"a": [1, 0, 0, 0]}), stats({"a": [0, 1, 0, 0]})
    with pytest.raises(InputError, match="added twice"):
        one.merge([one.with_weights({"a": 3})])
    with pytest.raises(InputError, match="leave one of the files out"):
        one.merge([other]).merge([other])


def test_a_disputed_weight_has_to_be_given() -> None:
    one, other = stats({"a": [1, 0, 0, 0]}), stats({"a": [0, 1, 0, 0]}, weights={"a": 2.0})
    with pytest.raises(InputError, match="--weight a=W"):
        one.merge([other])
    assert one.merge([other], weights={"a": 3}).weights == (3.0,)
    with pytest.raises(InputError, match="none of the files"):
        one.merge([other], weights={"a": 3, "nobody": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"domains": ("b", "a")},
        {"domains": ("a",)},
        {"counts": torch.ones(2, 4)},
        {"documents": torch.full((2, 4), 9)},
        {"documents": torch.zeros(2, 4, dtype=torch.int64)},
        {"n_documents": (0, 0)},
        {"weights": (1.0, -1.0)},
        {"weights": (1.0, float("nan"))},
    ],
)
def test_impossible_statistics_are_refused(change: dict[str, object]) -> None:
    good = stats({"a": [1, 2, 0, 0], "b": [0, 0, 3, 0]})
    values = {name: getattr(good, name) for name in ("domains", "counts", "documents", "n_documents", "weights")}
    with pytest.raises(InputError, match="outlex count"):
        TokenStats(**{**values, **change}, tokenizer_fingerprint="f")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    stats({"a": [1, 2, 0, 0]}).save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-3], whole[:40], whole.replace(b"token-stats", b"taken-stats"), b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="count again"):
            TokenStats.load(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="outlex count"):
        TokenStats.load(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    old, new = stats({"a": [1, 2, 0, 0]}), stats({"a": [9, 9, 9, 9]})
    old.save(path)
    with largest_file(64), pytest.raises(ArtifactError, match="free some space"):
        new.save(path)
    assert same(TokenStats.load(path), old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats"]


def test_trim_reads_it_as_a_ranking(tmp_path: Path) -> None:
    path = tmp_path / "stats.safetensors"
    both = stats({"a": [0, 5, 0, 0], "b": [1, 0, 2, 0]}, weights={"b": 4.0})
    both.save(path)
    ranking = read_ranking(path, n_tokenizer=N_ENTRIES)
    assert ranking.ids.tolist() == [2, 1, 0]
    assert ranking.counts is not None
    assert ranking.counts.tolist() == both.total().tolist()
    both.with_weights({"b": 1}).save(path)
    ranking = read_ranking(path, n_tokenizer=N_ENTRIES)
    assert ranking.ids.tolist() == [1, 2, 0]
    assert ranking.counts is not None
    assert ranking.counts.dtype == torch.int64
