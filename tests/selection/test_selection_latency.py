"""Measured cost: medians made monotone, and a real measurement on a tiny model."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model

from outlex.errors import InputError
from outlex.selection.cost import reduction
from outlex.selection.latency import LatencyCost, fit_latency, measure_latency


def fitted(*columns: list[float], rest_s: float = 0.010) -> LatencyCost:
    seconds = torch.tensor(columns, dtype=torch.float64).T
    sizes = [100 * 2**i for i in range(len(columns))]
    return fit_latency(seconds, sizes=sizes, rest_s=rest_s, threads=1, dtype="float32", device="cpu")


def test_medians_ignore_outliers_and_a_dip_is_levelled() -> None:
    cost = fitted([0.001, 0.001, 0.9], [0.004, 0.004, 0.004], [0.002, 0.002, 0.0], [0.008, 0.008, 0.5])
    assert cost.measured_s == (0.001, 0.004, 0.002, 0.008)
    assert cost.head_s == pytest.approx((0.001, 0.003, 0.003, 0.008))
    assert (cost.n_rounds, cost.n_rows, cost.unit) == (3, 800, "seconds")


def test_between_the_sizes_it_is_a_line_and_below_them_level() -> None:
    cost = fitted([0.001] * 3, [0.003] * 3)
    assert cost.of(torch.tensor([1, 100, 150, 200])).tolist() == pytest.approx([0.011, 0.011, 0.012, 0.013])
    assert reduction(cost, torch.tensor([100, 200])).tolist() == pytest.approx([2 / 13, 0])


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": (5, 3)},
        {"sizes": (3, 3)},
        {"sizes": (0, 3)},
        {"head_s": (0.2, 0.1)},
        {"head_s": (0.1, float("inf"))},
        {"head_s": (0.1,)},
        {"rest_s": float("nan")},
    ],
)
def test_times_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    cost = fitted([0.001], [0.003])
    with pytest.raises(InputError, match="fit_latency"):
        LatencyCost(**{**vars(cost), **change})


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_real_head_is_measured(family: str) -> None:
    loaded = tiny_model(family=family, n_rows=5000)
    cost = measure_latency(loaded, n_sizes=4, n_rounds=3)
    assert cost.sizes[0] == 64
    assert cost.sizes[-1] == cost.n_rows == 5000
    assert len(cost.sizes) == 4
    assert cost.rest_s > 0
    assert min(cost.measured_s) > 0
    assert (cost.dtype, cost.device, cost.threads) == ("float32", "cpu", torch.get_num_threads())
    saved = reduction(cost, torch.tensor([64, 500, 5000]))
    assert bool((saved.diff() <= 0).all())
    assert float(saved[-1]) == 0
