"""The choice of a preview's rows on a CPU, compiled by Numba. Importing this needs Numba.

    hidden ─▶ z ─▶ scores of all rows ─▶ threshold ─▶ candidates ─▶ their second scores ─▶ the best of them ─▶ logits

One pass over the codes, and of what it finds one number a row is kept. It computes what `quantized_rows.RowScorer`
does, with z rounded to bfloat16 at the same places and then to steps of a 32,767th of its largest entry, so that sums
are of integers; rows may be chosen differently where they nearly tie. What is chosen does not depend on the number of
threads.

int4 codes are kept in groups of 32 rows, two columns together:

    byte [j / 2, l, j % 2]    low half    column j of the group's row l
                              high half   column j of the group's row l + 16
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.heads.numba_kernels import BLOCK_ROWS, CHUNKS, shortlist
from outlex.heads.numba_vectors import GROUP
from outlex.heads.quantized_rows import QuantizedRows, quantize_rows, rotation

__all__ = ["RowChooser", "try_it"]

# one of Numba's thread pools does not stand two calls at once, and a call takes all threads anyway
_ONE_AT_A_TIME = threading.Lock()
_NOBODY = np.empty(0, np.bool_)
_NO_WEIGHT = torch.empty(0, 0, dtype=torch.bfloat16)


class _Stages(NamedTuple):
    """What the kernel reads, in its order."""

    mean: Any
    basis: Any
    rotations: Any
    ranks: Any
    blocks: Any  # first byte, groups, columns, where the tier's z' starts, tier, first slot, first row, rows
    codes: Any
    scales: Any
    offsets: Any
    fine: Any
    order: Any
    weight: Any


class _Scratch(NamedTuple):
    """What a step writes and forgets: memory that is new to the process costs as much as a kernel."""

    z: Any
    levels: Any
    turned: Any
    turned_levels: Any
    steps: Any
    scores: Any
    tops: Any
    rows: Any
    second: Any
    counts: Any


class RowChooser:
    """All stages of a preview, in the layout that the kernels read.

    Args:
        mean: float32 [d].
        basis: bfloat16 [rank, d].
        order: int64 [n_rows], ids that rows stand for.
        coarse: the first stage, int4.
        fine: the second stage, int8.
        n_candidates: rows that the second stage scores, about.
        weight: [n, d], the whole head; None, as one that is not bfloat16, leaves its products out.
    """

    def __init__(
        self,
        *,
        mean: Tensor,
        basis: Tensor,
        order: Tensor,
        coarse: Sequence[QuantizedRows],
        fine: QuantizedRows,
        n_candidates: int,
        weight: Tensor | None,
    ) -> None:
        blocks, codes, scales, offsets = [], [], [], []
        n_bytes, n_slots, n_rows, z_start = 0, 0, 0, 0
        for number, tier in enumerate(coarse):
            width, missing = tier.rank + 1, -tier.n_rows % GROUP
            codes.append(_in_groups(F.pad(tier.codes, (0, 0, 0, missing))))
            scales.append(F.pad(tier.scales, (0, missing)))
            offsets.append(F.pad(tier.offsets, (0, missing), value=-torch.inf))
            for first in range(0, tier.n_rows, BLOCK_ROWS):
                n = min(BLOCK_ROWS, tier.n_rows - first)
                start = n_bytes + first * width // 2
                blocks.append([start, -(-n // GROUP), width, z_start, number, n_slots + first, n_rows + first, n])
            n_bytes, n_slots, n_rows = n_bytes + codes[-1].nbytes, n_slots + len(scales[-1]), n_rows + tier.n_rows
            z_start += width
        ranks = [tier.rank for tier in coarse]
        self._multiplies = weight is not None and weight.dtype == torch.bfloat16 and weight.is_contiguous()
        self._stages = _Stages(
            mean=mean.numpy(),
            basis=_bits(basis),
            rotations=torch.cat([rotation(rank).flatten() for rank in ranks]).numpy(),
            ranks=np.array(ranks, np.int64),
            blocks=np.array(blocks, np.int64),
            codes=torch.cat(codes).numpy(),
            scales=_bits(torch.cat(scales)),
            offsets=_bits(torch.cat(offsets)),
            fine=_side_by_side(fine),
            order=order.numpy(),
            weight=_bits(weight.detach() if weight is not None and self._multiplies else _NO_WEIGHT),
        )
        most = -(-len(blocks) // CHUNKS) * BLOCK_ROWS + 16  # chunks whose distance is a power of 2 share cache lines
        self._scratch = _Scratch(
            z=np.empty(len(basis), np.float32),
            levels=np.empty(fine.rank, np.int16),
            turned=np.empty(z_start, np.float32),
            turned_levels=np.empty(z_start, np.int16),
            steps=np.empty(len(ranks), np.float32),
            scores=np.empty(n_slots, np.float32),
            tops=np.empty(n_slots // GROUP, np.float32),
            rows=np.empty((CHUNKS, most), np.int32),
            second=np.empty((CHUNKS, most), np.float32),
            counts=np.empty(CHUNKS, np.int64),
        )
        self._n_candidates = n_candidates

    def shortlist(
        self, hidden: Tensor, n: int, *, given: Tensor | None = None, left_out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The best rows at one position, and what the head says of them.

        Args:
            hidden: [1, d].
            n: how many, no more than there are rows besides those that are left out.
            given: int64 [m], ids that come before the best ones.
            left_out: bool [number of ids]: these are not chosen.

        Returns:
            ids int64 [m + n], the chosen ones in no order; a score that is NaN is lower than all others. And these rows
            of the head times h, float32 [1, m + n]; None without a bfloat16 head.
        """
        n_given = 0 if given is None else len(given)
        ids = np.empty(n_given + n, np.int64)
        if given is not None:
            ids[:n_given] = given.numpy()
        products = np.empty(len(ids) if self._multiplies else 0, np.float32)
        state = hidden.detach().float().contiguous().view(-1).numpy()
        without = _NOBODY if left_out is None else left_out.numpy()
        _in_threads(state, *self._stages, *self._scratch, without, self._n_candidates, ids, n_given, products)
        return torch.from_numpy(ids), torch.from_numpy(products).unsqueeze(0) if self._multiplies else None


def _in_threads(*args: Any) -> None:
    """Call the kernel with as many threads as torch takes."""
    with _ONE_AT_A_TIME:
        n_before = numba.get_num_threads()
        n_threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
        if n_threads == n_before:
            shortlist(*args, n_threads)
            return
        numba.set_num_threads(n_threads)
        try:
            shortlist(*args, n_threads)
        finally:
            numba.set_num_threads(n_before)


def try_it() -> None:
    """Compile everything, or load it from where it was kept, and run it once; whatever is wrong with Numba raises here.

    Compiling takes some ten seconds, on a machine's first use and after an update.
    """
    zeros = torch.zeros(1, 32)
    chooser = RowChooser(
        mean=zeros[0],
        basis=zeros.expand(32, 32).to(torch.bfloat16),
        order=torch.zeros(1, dtype=torch.int64),
        coarse=[quantize_rows(zeros[:, :31], zeros[0, :1], "int4")],
        fine=quantize_rows(zeros, zeros[0, :1], "int8"),
        n_candidates=1,
        weight=zeros.to(torch.bfloat16),
    )
    chooser.shortlist(zeros, 1)


def _bits(tensor: Tensor) -> Any:
    """bfloat16 as uint16: numpy has no such type."""
    return tensor.contiguous().view(torch.uint16).numpy()


def _in_groups(codes: Tensor) -> Tensor:
    """Packed int4, uint8 [32 n, w] -> uint8 [32 n · w], see the head of this module."""
    columns = torch.stack([codes & 15, codes >> 4], -1)  # [row, column / 2, column % 2]
    low, high = columns.view(-1, 2, GROUP // 2, *columns.shape[1:]).unbind(1)
    return (low | (high << 4)).transpose(1, 2).flatten()


def _side_by_side(rows: QuantizedRows) -> Any:
    """int8 [n, m + 4]: a row's codes, then the bytes of its scale and its offset, all in one place of memory."""
    pairs = torch.stack([rows.scales, rows.offsets], -1).view(torch.int8)
    return torch.cat([rows.codes, pairs], -1).numpy()
