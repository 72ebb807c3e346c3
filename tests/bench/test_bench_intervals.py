from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from outlex.bench.intervals import median_interval, ratio_of_ratios


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_the_median_and_its_order_statistics(values: list[float]) -> None:
    got = median_interval(values)
    n = len(values)
    assert got.value == pytest.approx(float(np.median(values)))
    assert got.n == n
    # scipy's quantile function, an independent route to the same ranks
    k = int(binom.ppf(0.025, n, 0.5))
    while k > 0 and 2 * binom.cdf(k - 1, n, 0.5) > 0.05:
        k -= 1
    if k == 0:
        assert n < 6
        assert math.isnan(got.low)
        assert math.isnan(got.high)
    else:
        assert (got.low, got.high) == (sorted(values)[k - 1], sorted(values)[n - k])


def test_the_median_of_nothing_is_not_a_number() -> None:
    assert math.isnan(median_interval([]).value)


def test_twelve_values_leave_two_out_at_each_end() -> None:
    # P(Bin(12, ½) ≤ 2) = 79/4096 = 0.019 and P(≤ 3) = 0.073
    got = median_interval([float(x) for x in range(1, 13)])
    assert (got.low, got.value, got.high) == (3.0, 6.5, 10.0)


def test_the_ratio_of_two_ratios_by_hand() -> None:
    got = ratio_of_ratios(([1.0, 3.0], [2.0, 6.0]), ([2.0, 2.0], [4.0, 1.0]))
    assert got.value == pytest.approx((4 / 8) / (4 / 5))
    assert got.low < got.value < got.high
    assert got.n == 2


def test_what_prompts_do_to_both_ratios_cancels() -> None:
    beta, tested = [3.0, 1.0, 7.5], [4.0, 5.0, 8.0]
    got = ratio_of_ratios(([0.9 * b for b in beta], tested), (beta, tested))
    assert (got.value, got.low, got.high) == pytest.approx((0.9, 0.9, 0.9))


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    n_runs, n_prompts, covered = 400, 20, 0
    for _ in range(n_runs):
        tested = rng.integers(10, 60, size=(2, n_prompts))
        level = rng.normal(0, 0.05, n_prompts)  # a prompt is easy or hard for both
        accepted = rng.binomial(tested, np.array([[0.7], [0.8]]) + level)
        got = ratio_of_ratios((accepted[0], tested[0]), (accepted[1], tested[1]))
        covered += got.low <= 0.7 / 0.8 <= got.high
    # 0.95 ± 4 standard errors of 400 runs
    assert 0.905 <= covered / n_runs <= 0.995


def test_too_little_gives_no_interval() -> None:
    one = ratio_of_ratios(([1.0], [2.0]), ([1.0], [4.0]))
    assert one.value == 2.0
    assert math.isnan(one.low)
    assert math.isnan(ratio_of_ratios(([0.0], [0.0]), ([1.0], [4.0])).value)
    assert math.isnan(ratio_of_ratios(([1.0], [2.0]), ([0.0], [4.0])).value)
