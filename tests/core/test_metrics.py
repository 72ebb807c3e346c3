"""Each metric against its definition, and the interval against repeated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlex.errors import InputError
from outlex.metrics import block_efficiency, clustered_ratio, expected_speedup


@given(alpha=st.floats(0, 0.99), draft_len=st.integers(0, 8))
def test_block_efficiency_is_the_closed_form(alpha: float, draft_len: int) -> None:
    assert block_efficiency(alpha, draft_len) == pytest.approx((1 - alpha ** (draft_len + 1)) / (1 - alpha))


def test_block_efficiency_at_its_ends() -> None:
    assert block_efficiency(0.0, 4) == 1
    assert block_efficiency(1.0, 4) == 5
    for wrong in ((-0.1, 4), (1.1, 4), (0.5, -1), (math.nan, 4)):
        with pytest.raises(InputError, match="block_efficiency"):
            block_efficiency(*wrong)


def test_expected_speedup_worked_by_hand() -> None:
    # 3 tokens a pass, 4 drafts that cost a tenth of a pass each: 3 / 1.4
    assert expected_speedup(3.0, 4, 0.1) == pytest.approx(3 / 1.4)


def test_the_ratio_is_of_sums_not_a_mean_of_ratios() -> None:
    estimate = clustered_ratio([1, 90], [10, 100])
    assert estimate.value == pytest.approx(91 / 110)
    assert estimate.n == 110
    assert estimate.low < estimate.value < estimate.high


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # 30 prompts of 5 to 40 positions whose acceptance varies from prompt to prompt; 600 experiments. An interval that
    # takes positions for independent covers about 60 % here.
    rng, covered = np.random.default_rng(0), 0
    for _ in range(600):
        sizes = rng.integers(5, 41, 30)
        accepted = rng.binomial(sizes, rng.beta(4, 2, 30))
        estimate = clustered_ratio(accepted.tolist(), sizes.tolist())
        covered += estimate.low <= 4 / 6 <= estimate.high
    assert 0.92 <= covered / 600 <= 0.98


def test_too_few_prompts_give_no_interval() -> None:
    assert math.isnan(clustered_ratio([], []).value)
    one = clustered_ratio([3, 0], [4, 0])
    assert (one.value, one.n) == (0.75, 4)
    assert math.isnan(one.low)
    with pytest.raises(InputError, match="pair up"):
        clustered_ratio([1], [1, 2])
