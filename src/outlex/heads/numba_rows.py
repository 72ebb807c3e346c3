"""The choice of a preview's rows on a CPU, compiled by Numba. Importing this needs Numba.

    hidden ─▶ z ─▶ scores of all rows ─▶ threshold ─▶ candidates ─▶ their second scores ─▶ the best of them

One pass over the codes, and of what it finds one number a row is kept. It computes what `quantized_rows.RowScorer`
does, with z rounded to bfloat16 at the same places; sums are added up in another order, so rows may be chosen
differently where they nearly tie. What is chosen does not depend on the number of threads.

int4 codes are kept column by column, in blocks of 512 rows and a shorter last one:

    byte [j, l]    low half    column j of the block's row l
                   high half   column j of the block's row l + half the block's rows

so that neighbouring bytes belong to different rows, and no sum goes across a register.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.heads.numba_kernels import BLOCK_ROWS, CHUNKS, GROUP, choose, products
from outlex.heads.quantized_rows import QuantizedRows, quantize_rows, rotation

__all__ = ["RowChooser", "try_it"]

# one of Numba's thread pools does not stand two calls at once, and a call takes all threads anyway
_ONE_AT_A_TIME = threading.Lock()
_NOBODY = np.empty(0, np.bool_)


class RowChooser:
    """All stages of a preview, in the layout that the kernels read.

    Args:
        mean: float32 [d].
        basis: bfloat16 [rank, d].
        order: int64 [n_rows], ids that rows stand for.
        coarse: the first stage, int4.
        fine: the second stage, int8.
        n_candidates: rows that the second stage scores, about.
        weight: [n, d], the whole head.
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
        weight: Tensor,
    ) -> None:
        blocks, codes, scales, offsets = [], [], [], []
        n_bytes, n_slots, n_rows, z_start = 0, 0, 0, 0
        for tier in coarse:
            width = tier.rank + 1
            for first in range(0, tier.n_rows, BLOCK_ROWS):
                part = slice(first, first + BLOCK_ROWS)
                n = len(tier.codes[part])
                missing = -n % GROUP
                blocks.append([n_bytes, (n + missing) // 2, width, z_start, n_slots, n_rows, n])
                codes.append(_by_columns(F.pad(tier.codes[part], (0, 0, 0, missing))))
                scales.append(F.pad(tier.scales[part], (0, missing)))
                offsets.append(F.pad(tier.offsets[part], (0, missing), value=-torch.inf))
                n_bytes, n_slots, n_rows = n_bytes + codes[-1].nbytes, n_slots + n + missing, n_rows + n
            z_start += width
        ranks = [tier.rank for tier in coarse]
        self._stages = (
            mean.numpy(),
            _bits(basis),
            torch.cat([rotation(rank).flatten() for rank in ranks]).numpy(),
            np.array(ranks, np.int64),
            # first byte, bytes of a column, columns, where its tier's z' starts, first slot, first row, rows
            np.array(blocks, np.int64),
            torch.cat(codes).numpy(),
            _bits(torch.cat(scales)),
            _bits(torch.cat(offsets)),
            _side_by_side(fine),
            order.numpy(),
        )
        most = -(-len(blocks) // CHUNKS) * BLOCK_ROWS + 16  # chunks whose distance is a power of 2 share cache lines
        # what a step writes and forgets: memory that is new to the process costs as much as a kernel
        self._scratch = (
            np.empty(len(basis), np.float32),
            np.empty(z_start, np.float32),
            np.empty(n_slots, np.float32),
            np.empty((CHUNKS, most), np.int32),
            np.empty((CHUNKS, most), np.float32),
            np.empty(CHUNKS, np.int64),
        )
        self._n_candidates = n_candidates
        self._weight = _bits(weight.detach()) if weight.dtype == torch.bfloat16 and weight.is_contiguous() else None

    def best(self, hidden: Tensor, n: int, *, left_out: Tensor | None = None) -> Tensor:
        """Ids of the best rows at one position.

        Args:
            hidden: [1, d].
            n: how many, no more than there are rows besides those that are left out.
            left_out: bool [number of ids]: these are not chosen.

        Returns:
            int64 [n], in no order. A score that is NaN is lower than all others.
        """
        ids = np.empty(n, np.int64)
        without = _NOBODY if left_out is None else left_out.numpy()
        _in_threads(choose, _state(hidden), *self._stages, *self._scratch, without, self._n_candidates, ids)
        return torch.from_numpy(ids)

    def products(self, hidden: Tensor, ids: Tensor) -> Tensor | None:
        """Rows of the head times h: hidden [1, d], ids int64 [k] -> float32 [1, k]; None if it is not bfloat16."""
        if self._weight is None:
            return None
        found = np.empty(len(ids), np.float32)
        _in_threads(products, self._weight, ids.numpy(), _state(hidden), found)
        return torch.from_numpy(found).unsqueeze(0)


def _state(hidden: Tensor) -> Any:
    return hidden.detach().float().contiguous().view(-1).numpy()


def _in_threads(kernel: Any, *args: Any) -> None:
    """Call a kernel with as many threads as torch takes."""
    with _ONE_AT_A_TIME:
        n_before = numba.get_num_threads()
        n_threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
        if n_threads == n_before:
            kernel(*args, n_threads)
            return
        numba.set_num_threads(n_threads)
        try:
            kernel(*args, n_threads)
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
    chooser.products(zeros, chooser.best(zeros, 1))


def _bits(tensor: Tensor) -> Any:
    """bfloat16 as uint16: numpy has no such type."""
    return tensor.contiguous().view(torch.uint16).numpy()


def _by_columns(codes: Tensor) -> Tensor:
    """A block of packed int4, uint8 [2 l, w] -> uint8 [2 w · l], see the head of this module."""
    low, high = torch.stack([codes & 15, codes >> 4], -1).flatten(1).T.chunk(2, dim=-1)
    return (low | (high << 4)).flatten()


def _side_by_side(rows: QuantizedRows) -> Any:
    """int8 [n, m + 4]: a row's codes, then the bytes of its scale and its offset, all in one place of memory."""
    pairs = torch.stack([rows.scales, rows.offsets], -1).view(torch.int8)
    return torch.cat([rows.codes, pairs], -1).numpy()
