"""Rows in few bytes: how far they may be from what was stored, and the kernels against the plain sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outlex.errors import ArtifactError, InputError
from outlex.heads.quantized_rows import (
    INT4_RANKS,
    INT8_STEP,
    QuantizedRows,
    RowScorer,
    Storage,
    quantize_rows,
    rotation,
    rotation_bytes,
    row_bytes,
)

CPU = torch.device("cpu")
BF16 = 2.0**-8  # relative error of one rounding, at most
SHAPES = st.sampled_from(
    [("bf16", 1), ("bf16", 5), ("bf16", 64), ("int8", 32), ("int8", 96), *(("int4", rank) for rank in INT4_RANKS)]
)


def random_rows(n: int, rank: int, *, seed: int, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rows whose coordinates shrink, as those of a factor do, and offsets."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.linspace(1, 0.05, rank)
    return (
        size * torch.randn(n, rank, generator=generator) * decay,
        3 * size * torch.randn(n, generator=generator),
    )


def unpacked(packed: Tensor) -> Tensor:
    """int4 codes, by hand: float64 [n, 2 w]."""
    columns = [(byte & 15, byte >> 4) for byte in packed.to(torch.int64).unbind(1)]
    return torch.stack([half for pair in columns for half in pair], 1).double() - 8


def stored(rows: QuantizedRows) -> Tensor:
    """The rows that the codes stand for, before the offset: float64 [n, m], or [n, m + 1] turned for int4."""
    codes = unpacked(rows.codes) if rows.storage == "int4" else rows.codes.double()
    return codes * rows.scales.double().unsqueeze(-1)


@given(shape=SHAPES, n=st.integers(1, 40), seed=st.integers(0, 10**6), size=st.sampled_from([1e-6, 1.0, 3e4]))
def test_what_is_stored_is_near(shape: tuple[Storage, int], n: int, seed: int, size: float) -> None:
    storage, rank = shape
    matrix, offsets = random_rows(n, rank, seed=seed, size=size)
    rows = quantize_rows(matrix, offsets, storage)
    assert (rows.n_rows, rows.rank, rows.storage) == (n, rank, storage)
    exact, found = matrix.double(), stored(rows)
    if storage == "bf16":
        assert bool(((exact - found).abs() <= BF16 * exact.abs()).all())
    elif storage == "int8":
        step = rows.scales.double().unsqueeze(-1)
        assert bool(((exact - found).abs() <= 0.501 * step).all())
        assert bool((step.squeeze(-1) <= exact.abs().amax(-1) / 127 * (1 + BF16)).all())
    else:
        turned = exact @ rotation(rank).double().T
        # never worse than without clipping, where each coordinate is off by half a step at most
        half_step = turned.abs().amax(-1) / 7 / 2 * 1.01
        error = (turned - found).square().sum(-1)
        assert bool((error <= (rank + 1) * half_step.square()).all())
        # turning back loses nothing but that
        back = (exact - found @ rotation(rank).double()).square().sum(-1)
        assert bool((back <= error * (1 + 1e-5) + 1e-12 * size**2).all())
    if storage != "int4":
        assert bool(((rows.offsets.double() - offsets.double()).abs() <= BF16 * offsets.double().abs()).all())


@given(
    shape=SHAPES,
    n=st.integers(1, 130),
    n_positions=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 10**6),
)
def test_kernels_add_up_what_is_stored(shape: tuple[Storage, int], n: int, n_positions: int, seed: int) -> None:
    storage, rank = shape
    rows = quantize_rows(*random_rows(n, rank, seed=seed), storage)
    z = torch.randn(n_positions, rank, generator=torch.Generator().manual_seed(seed + 1))
    offsets = rows.offsets.double()
    weights = stored(rows)
    exact_z = z.to(torch.bfloat16).double()
    if storage == "int4":
        # the zero point is added to every column, and the columns of what it meets sum to 1
        weights, offsets = weights + offsets.unsqueeze(-1), torch.zeros(n, dtype=torch.float64)
        exact_z = (z @ rotation(rank).T + 1 / (rank + 1)).to(torch.bfloat16).double()
    wanted = exact_z @ weights.T + offsets
    # the kernels round what they return, and may round weights, to bfloat16
    allowed = 2 * BF16 * (exact_z.abs() @ weights.abs().T + offsets.abs()) + 1e-6
    scorer = RowScorer(rows, CPU)
    got = scorer.scores(z)
    rounded = torch.bfloat16 if storage == "int4" else torch.float32
    assert (got.dtype, got.shape) == (rounded, (n_positions, n))
    assert bool(((got.double() - wanted).abs() <= allowed).all())
    if storage != "int4":
        picked = torch.randint(n, (7,), generator=torch.Generator().manual_seed(seed))
        some = scorer.scores_of(picked, z[:1])
        assert some.shape == (1, 7)
        assert bool(((some.double() - wanted[:1, picked]).abs() <= allowed[:1, picked]).all())


@given(shape=SHAPES, seed=st.integers(0, 10**6))
def test_scores_are_those_of_the_rows_that_were_given(shape: tuple[Storage, int], seed: int) -> None:
    storage, rank = shape
    matrix, offsets = random_rows(50, rank, seed=seed)
    z = torch.randn(4, rank, generator=torch.Generator().manual_seed(seed + 1))
    got = RowScorer(quantize_rows(matrix, offsets, storage), CPU).scores(z)
    wanted = z @ matrix.T + offsets
    error = float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    assert error < {"bf16": 0.01, "int8": 0.02, "int4": 0.15}[storage]


def test_rows_of_zeros_stay_zero() -> None:
    for storage, rank in (("bf16", 31), ("int8", 32), ("int4", 31)):
        rows = quantize_rows(torch.zeros(3, rank), torch.zeros(3), storage)  # type: ignore[arg-type]
        assert RowScorer(rows, CPU).scores(torch.randn(2, rank)).abs().max() == 0


@pytest.mark.parametrize(("storage", "rank"), [("bf16", 40), ("int8", 64), ("int4", 127)])
def test_bytes_are_those_that_are_stored(storage: Storage, rank: int) -> None:
    rows = quantize_rows(*random_rows(48, rank, seed=0), storage)
    parts = [rows.codes, rows.offsets] + ([] if storage == "bf16" else [rows.scales])
    assert 48 * rows.row_bytes == sum(part.nbytes for part in parts)
    assert rows.row_bytes == row_bytes(rank, storage)
    assert rotation_bytes(rank, storage) == (rotation(rank).nbytes if storage == "int4" else 0)


def test_some_of_the_rows() -> None:
    rows = quantize_rows(*random_rows(40, 63, seed=0), "int4")
    picked = torch.tensor([39, 3, 3, 17])
    z = torch.randn(2, 63, generator=torch.Generator().manual_seed(1))
    few = RowScorer(rows.select(picked), CPU).scores(z)
    torch.testing.assert_close(few, RowScorer(rows, CPU).scores(z)[:, picked], atol=0, rtol=2 * BF16)


@pytest.mark.parametrize(
    ("storage", "rank"), [("int4", 32), ("int4", 1), ("int8", 33), ("int8", 0), ("bf16", 0), ("int2", 64)]
)
def test_ranks_and_storages_that_no_kernel_takes(storage: Any, rank: int) -> None:
    with pytest.raises(InputError, match="choose another storage or rank"):
        quantize_rows(torch.zeros(2, rank), torch.zeros(2), storage)


@settings(max_examples=200)
@given(width=st.integers(0, 300), storage=st.sampled_from(["int8", "int4"]))
def test_only_widths_that_kernels_read_within_their_bounds(width: int, storage: Storage) -> None:
    # torch's kernels read whole registers: a narrower matrix from a damaged file would be read past its end
    def make() -> QuantizedRows:
        dtype = torch.int8 if storage == "int8" else torch.uint8
        ones = torch.ones(4, dtype=torch.bfloat16)
        return QuantizedRows(storage=storage, codes=torch.zeros(4, width, dtype=dtype), scales=ones, offsets=ones)

    readable = (width > 0 and width % INT8_STEP == 0) if storage == "int8" else 2 * width - 1 in INT4_RANKS
    if readable:
        assert make().n_rows == 4
    else:
        with pytest.raises(ArtifactError, match="outlex fit-head"):
            make()


@pytest.mark.parametrize(
    "change",
    [
        {"codes": torch.zeros(4, 32)},
        {"codes": torch.zeros(4, 32, dtype=torch.uint8)},
        {"codes": torch.zeros(5, 32, dtype=torch.int8)},
        {"codes": torch.zeros(32, dtype=torch.int8)},
        {"codes": torch.zeros((), dtype=torch.int8)},
        {"codes": torch.zeros(4, 32, 1, dtype=torch.int8)},
        {"scales": torch.zeros(4)},
        {"scales": torch.zeros(3, dtype=torch.bfloat16)},
        {"offsets": torch.zeros(4, 1, dtype=torch.bfloat16)},
        {"offsets": torch.zeros((), dtype=torch.bfloat16)},
        {"storage": "int2"},
        {"storage": "bf16"},
        {
            "codes": torch.zeros(0, 32, dtype=torch.int8),
            "scales": torch.zeros(0, dtype=torch.bfloat16),
            "offsets": torch.zeros(0, dtype=torch.bfloat16),
        },
    ],
    ids=str,
)
def test_parts_that_do_not_fit(change: dict[str, Any]) -> None:
    ones = torch.ones(4, dtype=torch.bfloat16)
    parts: dict[str, Any] = {
        "storage": "int8",
        "codes": torch.zeros(4, 32, dtype=torch.int8),
        "scales": ones,
        "offsets": ones,
    }
    assert QuantizedRows(**parts).rank == 32
    with pytest.raises(ArtifactError, match="fit the head again"):
        QuantizedRows(**{**parts, **change})
