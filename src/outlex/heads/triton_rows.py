"""Quantised rows on a GPU: one pass over codes as they are stored, in Triton. Importing this needs Triton.

What each kernel computes, in float32, for every position p and every row v:

    out[p, v] = scales[v] · Σ_j codes[v, j] · z[p, j] + offsets[v]

int4   reads two codes a byte and never writes them unpacked: `quantized_rows.row_bytes` a row is all it reads.
int8   the same for one code a byte. With a list of rows it reads those alone: gathering and scoring are one launch, and
       no gathered row is written.

A program takes a tile of rows, keeps it in registers and goes through the positions, so that several positions cost
one pass as well. Nothing here waits for the device. Correct under Triton's interpreter and compiled for CUDA; not
timed: no GPU was at hand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from outlex.errors import InputError

__all__ = ["int4_scores", "int8_scores"]

_TILE = 4096  # codes' bytes a program keeps: a thread of four warps holds 32 of them
_LAUNCH = {"enable_fp_fusion": True}  # said because Triton's default is about to change


def int4_scores(z: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """All rows of packed int4.

    Args:
        z: bfloat16 [n, 2 w], n >= 1 positions.
        codes: uint8 [n_rows, w], contiguous: two codes a byte, each plus 8, the even column low. w a power of 2.
        scales, offsets: bfloat16 [n_rows], contiguous.

    Returns:
        float32 [n, n_rows].

    Raises:
        InputError: other types, shapes or strides.
    """
    n_rows, width = _checked(z, codes, scales, offsets, dtype=torch.uint8, codes_per_byte=2)
    if width & (width - 1):
        raise InputError(
            "The int4 kernel does not take rows of this width",
            got=f"{width} bytes a row",
            expected="a power of 2",
            next_step="quantise with a rank of `outlex.heads.quantized_rows.INT4_RANKS`",
        )
    out = torch.empty(z.shape[0], n_rows, dtype=torch.float32, device=z.device)
    n_tile = max(1, _TILE // width)
    with torch.cuda.device(z.get_device()):
        _int4_kernel[(triton.cdiv(n_rows, n_tile),)](
            z.contiguous().view(torch.int32),
            codes,
            scales,
            offsets,
            out,
            n_rows,
            z.shape[0],
            width=width,
            n_tile=n_tile,
            **_LAUNCH,
        )
    return out


def int8_scores(z: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor, *, rows: Tensor | None = None) -> Tensor:
    """All rows of int8, or some of them.

    Args:
        z: bfloat16 [n, m], n >= 1 positions.
        codes: int8 [n_rows, m], contiguous.
        scales, offsets: bfloat16 [n_rows], contiguous.
        rows: int64 [k], contiguous, in any order; None for all. They are not compared with `n_rows`, for which the
            host would have to wait.

    Returns:
        float32 [n, k], or [n, n_rows] without `rows`.

    Raises:
        InputError: other types, shapes or strides.
    """
    n_rows, rank = _checked(z, codes, scales, offsets, dtype=torch.int8, codes_per_byte=1)
    if rows is not None:
        if (rows.dtype, rows.ndim, rows.device) != (torch.int64, 1, z.device) or not rows.is_contiguous():
            raise InputError(
                "This is not a list of rows",
                got=f"{rows.dtype} {list(rows.shape)} on {rows.device}",
                expected=f"int64 [k] on {z.device}, contiguous",
                next_step="give row numbers as `topk` returns them",
            )
        n_rows = rows.shape[0]
    out = torch.empty(z.shape[0], n_rows, dtype=torch.float32, device=z.device)
    width = triton.next_power_of_2(rank)
    n_tile = max(1, _TILE // width)
    if n_rows:
        with torch.cuda.device(z.get_device()):
            _int8_kernel[(triton.cdiv(n_rows, n_tile),)](
                z.contiguous(),
                codes,
                scales,
                offsets,
                rows,
                out,
                n_rows,
                z.shape[0],
                rank=rank,
                width=width,
                n_tile=n_tile,
                **_LAUNCH,
            )
    return out


def _checked(
    z: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor, *, dtype: torch.dtype, codes_per_byte: int
) -> tuple[int, int]:
    """n_rows and the width of `codes`, whose parts fit each other."""
    n_rows, width = codes.shape if codes.ndim == 2 else (0, 0)
    parts = (z, codes, scales, offsets)
    fits = (
        n_rows * width > 0
        and z.ndim == 2
        and z.shape[0] > 0
        and z.shape[1] == width * codes_per_byte
        and scales.shape == offsets.shape == (n_rows,)
        and [part.dtype for part in parts] == [torch.bfloat16, dtype, torch.bfloat16, torch.bfloat16]
        and all(part.device == z.device for part in parts)
        and all(part.is_contiguous() for part in parts[1:])  # a copy at every step would cost more than the kernel
    )
    if not fits:
        raise InputError(
            "The kernel cannot score these rows",
            got="; ".join(
                f"{name} {part.dtype} {list(part.shape)} on {part.device}"
                f"{'' if part.is_contiguous() else ', not contiguous'}"
                for name, part in zip(("z", "codes", "scales", "offsets"), parts, strict=True)
            ),
            expected=f"z bfloat16 [n, {codes_per_byte} w], codes {dtype} [rows, w], scales and offsets bfloat16 [rows],"
            " at least one of each, contiguous, on one device",
            next_step="let `outlex.heads.quantized_rows.RowScorer` prepare them",
        )
    return n_rows, width


@triton.jit  # type: ignore[untyped-decorator]
def _int4_kernel(
    z_pairs: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    offsets: tl.tensor,
    out: tl.tensor,
    n_rows: tl.tensor,
    n_positions: tl.tensor,
    width: tl.constexpr,
    n_tile: tl.constexpr,
) -> None:
    rows = tl.program_id(0).to(tl.int64) * n_tile + tl.arange(0, n_tile)
    inside = rows < n_rows
    columns = tl.arange(0, width)
    packed = tl.load(codes + rows[:, None] * width + columns[None, :], mask=inside[:, None], other=0)
    even = (packed & 15).to(tl.float32) - 8
    odd = (packed >> 4).to(tl.float32) - 8
    scale = tl.load(scales + rows, mask=inside, other=0).to(tl.float32)
    offset = tl.load(offsets + rows, mask=inside, other=0).to(tl.float32)
    # a bfloat16 is the upper half of a float32, and a pair of them is loaded as one word: the even one low
    z_at = z_pairs + columns
    out_at = out + rows  # moved along instead of multiplied: positions × rows may not fit 32 bits
    for _ in range(n_positions):
        pairs = tl.load(z_at)
        z_even = (pairs << 16).to(tl.float32, bitcast=True)
        z_odd = ((pairs >> 16) << 16).to(tl.float32, bitcast=True)
        dots = tl.sum(even * z_even[None, :] + odd * z_odd[None, :], axis=1)
        tl.store(out_at, dots * scale + offset, mask=inside)
        z_at += width
        out_at += n_rows


@triton.jit  # type: ignore[untyped-decorator]
def _int8_kernel(
    z: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    offsets: tl.tensor,
    picked: tl.tensor,
    out: tl.tensor,
    n_rows: tl.tensor,
    n_positions: tl.tensor,
    rank: tl.constexpr,
    width: tl.constexpr,
    n_tile: tl.constexpr,
) -> None:
    places = tl.program_id(0).to(tl.int64) * n_tile + tl.arange(0, n_tile)
    inside = places < n_rows
    rows = places
    if picked is not None:
        rows = tl.load(picked + places, mask=inside, other=0)
    columns = tl.arange(0, width)
    used = columns < rank
    wanted = inside[:, None] & used[None, :]
    code = tl.load(codes + rows[:, None] * rank + columns[None, :], mask=wanted, other=0).to(tl.float32)
    scale = tl.load(scales + rows, mask=inside, other=0).to(tl.float32)
    offset = tl.load(offsets + rows, mask=inside, other=0).to(tl.float32)
    z_at = z + columns
    out_at = out + places
    for _ in range(n_positions):
        dots = tl.sum(code * tl.load(z_at, mask=used, other=0).to(tl.float32)[None, :], axis=1)
        tl.store(out_at, dots * scale + offset, mask=inside)
        z_at += rank
        out_at += n_rows
