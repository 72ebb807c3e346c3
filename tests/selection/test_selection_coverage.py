"""Coverage curves, intervals and what is dropped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outlex.errors import InputError
from outlex.selection.coverage import coverage_curve, coverage_of_counts, coverage_of_positions, dropped
from outlex.vocab.selection import choose

KEPT = torch.tensor([True, True, False, False])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(any), st.data())
def test_the_curve_is_the_coverage_of_what_is_chosen(found: list[int], data: st.DataObject) -> None:
    n = len(found)
    weights = torch.tensor(found)
    order = torch.tensor(data.draw(st.permutations(range(n))))
    must = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    curve = coverage_curve(order, must=must, weights=weights)
    assert (curve.smallest, curve.largest) == (max(1, int(must.sum())), n)
    for size in range(curve.smallest, n + 1):
        kept = weights[choose(order, must, size)].sum()
        assert curve.at(size) == pytest.approx(int(kept) / sum(found), abs=1e-12)


def test_tokens_outside_the_head_count_as_lost() -> None:
    curve = coverage_curve(torch.tensor([1, 0]), must=torch.zeros(3, dtype=torch.bool), weights=torch.tensor([1, 6, 3]))
    assert curve.values.tolist() == pytest.approx([0.6, 0.7])


@pytest.mark.parametrize("weights", [[0, 0, 0], [1, -1, 3], [1, float("nan"), 1], [1, float("inf"), 1]])
def test_weights_that_say_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="outlex count"):
        coverage_curve(torch.arange(3), must=torch.zeros(3, dtype=torch.bool), weights=torch.tensor(weights))


def test_an_interval_from_counts_by_hand() -> None:
    counts = torch.tensor([600, 300, 60, 40])
    alone = coverage_of_counts(KEPT, counts)
    assert (alone.value, alone.n) == (0.9, 1000)
    assert alone.high - alone.value == pytest.approx(1.96 * 100**0.5 / 1000, rel=1e-3)
    # the same tokens in lumps: 60 in 6 documents, 40 in 10
    lumps = coverage_of_counts(KEPT, counts, torch.tensor([90, 80, 6, 10]))
    assert lumps.value == 0.9
    assert lumps.value - lumps.low == pytest.approx(1.96 * (60 * 10 + 40 * 4) ** 0.5 / 1000, rel=1e-3)
    nothing_lost = coverage_of_counts(KEPT, torch.tensor([600, 400, 0, 0]))
    assert (nothing_lost.low, nothing_lost.value, nothing_lost.high) == (0.997, 1.0, 1.0)


def bursty_prompts(*, n_prompts: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and prompts of prompts of 100 tokens. Each has a rare word (one of 400) with probability 0.3, 10 times."""
    rows = []
    for _ in range(n_prompts):
        row = torch.randint(2, (100,), generator=generator)
        if float(torch.rand((), generator=generator)) < 0.3:
            row[:10] = 2 + int(torch.randint(400, (), generator=generator))
        rows.append(row)
    return torch.cat(rows), torch.arange(n_prompts).repeat_interleave(100)


def test_intervals_hold_what_they_promise_on_bursty_text() -> None:
    generator = torch.Generator().manual_seed(5)
    kept = torch.arange(402) < 2
    truth, n_runs, n_prompts = 1 - 0.3 * 10 / 100, 200, 60
    hits = {"positions": 0, "documents": 0, "independent": 0}
    for _ in range(n_runs):
        ids, prompts = bursty_prompts(n_prompts=n_prompts, generator=generator)
        counts = torch.bincount(ids, minlength=402)
        documents = torch.bincount(torch.unique(torch.stack((prompts, ids)), dim=1)[1], minlength=402)
        for name, estimate in (
            ("positions", coverage_of_positions(kept, ids, prompts)),
            ("documents", coverage_of_counts(kept, counts, documents)),
            ("independent", coverage_of_counts(kept, counts)),
        ):
            hits[name] += estimate.low <= truth <= estimate.high
    assert hits["positions"] >= 0.9 * n_runs
    assert hits["documents"] >= 0.9 * n_runs
    assert hits["independent"] <= 0.7 * n_runs  # what the documents are counted for


def test_coverage_of_positions_is_a_share_of_positions_not_of_prompts() -> None:
    estimate = coverage_of_positions(KEPT, torch.tensor([0, 1, 2, 0, 0, 0]), torch.tensor([7, 7, 7, 3, 3, 9]))
    assert estimate.value == pytest.approx(5 / 6)
    assert estimate.n == 6
    assert estimate.low < estimate.value < estimate.high


def test_dropped_names_the_heaviest_first_and_no_empty_ones() -> None:
    weights = torch.tensor([9, 1, 4, 0, 5])
    kept = torch.tensor([True, False, False, False, False])
    assert dropped(kept, weights, n=2).tolist() == [4, 2]
    assert dropped(kept, weights, n=10).tolist() == [4, 2, 1]
