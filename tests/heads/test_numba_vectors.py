"""Sums of small integers in LLVM's own language, next to numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="Numba is not installed (pip install 'outlex[numba]')")

from numba import njit

from outlex.heads.numba_vectors import GROUP, group_sums, row_sum, to_levels


@njit  # type: ignore[untyped-decorator]
def sums_of(codes: Any, levels: Any, sums: Any) -> None:
    group_sums(codes, levels, sums)


@njit  # type: ignore[untyped-decorator]
def sum_of(codes: Any, levels: Any) -> Any:
    return row_sum(codes, levels)


def packed(codes: Any) -> Any:
    """uint8 [32, w] of 0 to 15 -> bytes, see `group_sums`."""
    width = codes.shape[1]
    packed = np.empty((width // 2, GROUP // 2, 2), np.uint8)
    for j in range(width):
        for row in range(GROUP // 2):
            packed[j // 2, row, j % 2] = codes[row, j] | codes[row + GROUP // 2, j] << 4
    return packed.ravel()


@pytest.mark.parametrize("width", [2, 32, 64, 128, 256, 4000])
def test_group_sums_are_exact(width: int) -> None:
    numbers = np.random.default_rng(width)
    codes = numbers.integers(0, 16, (GROUP, width), dtype=np.uint8)
    levels = numbers.integers(-32767, 32768, width).astype(np.int16)
    codes[0], levels[0] = 15, -32767
    sums = np.empty(GROUP, np.int32)
    sums_of(packed(codes), levels, sums)
    assert sums.tolist() == (codes.astype(np.int64) @ levels.astype(np.int64)).tolist()


def test_the_largest_group_sums_do_not_overflow() -> None:
    for sign in (1, -1):
        sums = np.empty(GROUP, np.int32)
        sums_of(packed(np.full((GROUP, 4000), 15, np.uint8)), np.full(4000, sign * 32767, np.int16), sums)
        assert sums.tolist() == [sign * 15 * 32767 * 4000] * GROUP


@pytest.mark.parametrize("rank", [32, 224, 320, 8000])
def test_row_sums_are_those_of_exact_integers(rank: int) -> None:
    numbers = np.random.default_rng(rank)
    codes = numbers.integers(-127, 128, rank + 4).astype(np.int8)  # a row is followed by its scale and offset
    levels = numbers.integers(-32767, 32768, rank).astype(np.int16)
    exact = int(codes[:rank].astype(np.int64) @ levels.astype(np.int64))
    largest = float(np.abs(codes[:rank].astype(float) * levels).sum())
    assert abs(sum_of(codes, levels) - exact) <= 1e-6 * largest
    for code in (127, -127):
        extreme = sum_of(np.full(rank, code, np.int8), np.full(rank, 32767, np.int16))
        assert extreme == pytest.approx(code * 32767 * rank, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_levels_are_the_values_to_a_step(values: list[float]) -> None:
    given, levels = np.array(values, np.float32), np.empty(len(values), np.int16)
    step = to_levels(given, levels)
    assert type(step) is float or step.dtype == np.float32
    if not np.isfinite(given).all():
        assert np.isnan(step)
        assert not levels.any()
        return
    largest = float(np.abs(given).max())
    assert float(np.abs(levels * float(step) - given.astype(float)).max()) <= largest * 0.51 / 32767 + 1e-36
