"""Many short rows in few bytes: the factors of a preview head, in bfloat16, int8 or packed int4.

Row v stands for the affine function  score_v(z) = a_v · z + c_v  of m coordinates.

bf16, int8   codes of a_v with one scale a row, c_v beside them.
int4         a_v turned by a fixed rotation R into m + 1 columns that are orthogonal to (1, …, 1), so that large and
             small coordinates share the 15 levels evenly. Scored with z' = R z + 1 / (m + 1), whose sum is 1, the
             kernel that torch has for such weights on CPUs adds a row's zero point exactly once: c_v travels in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.errors import ArtifactError, InputError
from outlex.heads.linear import linear

__all__ = [
    "INT4_RANKS",
    "INT8_STEP",
    "QuantizedRows",
    "RowScorer",
    "Storage",
    "quantize_rows",
    "rotation",
    "rotation_bytes",
    "row_bytes",
]

Storage = Literal["bf16", "int8", "int4"]
INT4_RANKS = (31, 63, 127, 255)  # one less than what the CPU kernel takes as the length of a scale's group
INT8_STEP = 32  # ranks of int8 rows are multiples: torch's CPU kernel reads whole registers, past the end if need be
_DTYPES = {"bf16": torch.bfloat16, "int8": torch.int8, "int4": torch.uint8}
_PACKED_ROWS = 16  # the CPU kernel takes multiples of this many rows
_CLIPPED = torch.linspace(0.4, 1.0, 13)  # int4: clipping a few outliers buys finer steps for all the others


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedRows:
    """Rows as they are stored.

    Attributes:
        storage: of the codes.
        codes: bfloat16 or int8 [n, m], or uint8 [n, (m + 1) / 2]: two int4 codes a byte, each plus 8, the even column
            low.
        scales: bfloat16 [n]; ones where the codes are bfloat16.
        offsets: bfloat16 [n], c_v; for int4 what the zero point has to be, see the head of this module.
    """

    storage: Storage
    codes: Tensor
    scales: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        dtype, n = _DTYPES.get(self.storage), self.codes.shape[:1]
        fits = all(one.shape == n and one.dtype == torch.bfloat16 for one in (self.scales, self.offsets))
        wide = self.codes.ndim == 2 and n[0] > 0 and _rank_fits(self.rank, self.storage)
        if self.codes.dtype != dtype or not fits or not wide:
            raise ArtifactError(
                "These are not quantised rows",
                got=f"{self.storage}: codes {self.codes.dtype} {list(self.codes.shape)}, scales {self.scales.dtype}"
                f" {list(self.scales.shape)}, offsets {self.offsets.dtype} {list(self.offsets.shape)}",
                expected=f"codes {dtype} [n, width], scales and offsets bfloat16 [n], n > 0",
                next_step="fit the head again with `outlex fit-head`",
            )

    @property
    def n_rows(self) -> int:
        return self.codes.shape[0]

    @property
    def rank(self) -> int:
        """m, coordinates that a row is scored with."""
        return 2 * self.codes.shape[1] - 1 if self.storage == "int4" else self.codes.shape[1]

    @property
    def row_bytes(self) -> int:
        """Bytes read to score one row."""
        return row_bytes(self.rank, self.storage)

    def select(self, rows: Tensor) -> QuantizedRows:
        """Some of the rows, int64 [k], k > 0."""
        codes, scales, offsets = (one.index_select(0, rows) for one in (self.codes, self.scales, self.offsets))
        return QuantizedRows(storage=self.storage, codes=codes, scales=scales, offsets=offsets)


class RowScorer:
    """Quantised rows on a device, in the layout that its fastest kernel reads.

    CPU     what torch's kernels for int4 and int8 weights take.
    CUDA    as they are stored, for the Triton kernels of `triton_rows`.
    else    unpacked to bfloat16, for kernels that every device has.
    """

    def __init__(self, rows: QuantizedRows, device: torch.device) -> None:
        self._n_rows = rows.n_rows
        codes, self._scales = rows.codes.to(device), rows.scales.to(device)
        self._offsets = rows.offsets.to(device)
        self._rotation = rotation(rows.rank).to(device) if rows.storage == "int4" else None
        self._pairs: Tensor | None = None
        self._is_int8 = rows.storage == "int8" and device.type == "cpu"
        self._fused = _fused_kernel(rows.storage, device)
        if rows.storage == "int4" and self._fused is None:
            codes = _unpacked(codes)
            if device.type == "cpu":
                missing = -rows.n_rows % _PACKED_ROWS
                shifted = F.pad(codes.to(torch.int32) + 8, (0, 0, 0, missing), value=8)
                self._codes = torch._convert_weight_to_int4pack_for_cpu(shifted, 1)
                self._pairs = F.pad(torch.stack([self._scales, self._offsets], -1), (0, 0, 0, missing)).unsqueeze(0)
                return
        self._codes = codes if self._is_int8 or self._fused is not None else codes.to(torch.bfloat16)

    def scores(self, z: Tensor) -> Tensor:
        """All rows: z float32 [n, m] -> [n, n_rows], float32, or bfloat16 where the kernel rounds to that."""
        z = self._prepared(z)
        if self._fused is not None:
            return self._fused(z, self._codes, self._scales, self._offsets)
        if self._pairs is not None:
            found = torch._weight_int4pack_mm_for_cpu(z, self._codes, z.shape[1], self._pairs)
            return found[:, : self._n_rows]
        return self._affine(z, self._codes, self._scales, self._offsets)

    def scores_of(self, rows: Tensor, z: Tensor) -> Tensor:
        """Some rows, not of int4 storage: rows int64 [k], z float32 [1, m] -> float32 [1, k]."""
        z = self._prepared(z)
        if self._fused is not None:
            return self._fused(z, self._codes, self._scales, self._offsets, rows=rows)
        codes, scales, offsets = (one.index_select(0, rows) for one in (self._codes, self._scales, self._offsets))
        return self._affine(z, codes, scales, offsets)

    def _prepared(self, z: Tensor) -> Tensor:
        if self._rotation is not None:
            z = F.linear(z, self._rotation) + 1 / self._rotation.shape[0]
        return z.to(torch.bfloat16)

    def _affine(self, z: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
        if self._is_int8:
            return torch._weight_int8pack_mm(z, codes, scales).float() + offsets
        return linear(z, codes).float() * scales + offsets


def row_bytes(rank: int, storage: Storage) -> int:
    """Bytes of one row of m = `rank` coordinates: codes, offset, and a scale where there is one."""
    codes = {"bf16": 2 * rank, "int8": rank + 2, "int4": (rank + 1) // 2 + 2}[storage]
    return codes + 2


def rotation_bytes(rank: int, storage: Storage) -> int:
    """Bytes read once a step, whatever the number of rows: int4's rotation, float32."""
    return 4 * rank * (rank + 1) if storage == "int4" else 0


def quantize_rows(matrix: Tensor, offsets: Tensor, storage: Storage) -> QuantizedRows:
    """Round rows, each to the scale with the smallest squared error.

    Args:
        matrix: float32 [n, m].
        offsets: float32 [n].
        storage: bf16; int8, m a multiple of `INT8_STEP`; or int4, m one of `INT4_RANKS`.

    Raises:
        InputError: an unknown storage, or a rank that it cannot have.
    """
    n, rank = matrix.shape
    if storage not in _DTYPES or not _rank_fits(rank, storage):
        raise InputError(
            "Rows cannot be stored like this",
            got=f"{storage}, rank {rank}",
            expected=f"bf16; int8, rank a multiple of {INT8_STEP}; int4, rank {', '.join(map(str, INT4_RANKS))}",
            next_step="choose another storage or rank",
        )
    if storage == "bf16":
        return QuantizedRows(
            storage=storage,
            codes=matrix.to(torch.bfloat16),
            scales=matrix.new_ones(n).to(torch.bfloat16),
            offsets=offsets.to(torch.bfloat16),
        )
    lowest, highest = (-8, 7) if storage == "int4" else (-127, 127)
    if storage == "int4":
        matrix = matrix @ rotation(rank).to(matrix.device).T
    largest = matrix.abs().amax(-1, keepdim=True).clamp_min(1e-30) / highest
    scales, best = largest, torch.full_like(largest, torch.inf)
    for share in _CLIPPED if storage == "int4" else _CLIPPED[-1:]:
        tried = (largest * share).to(torch.bfloat16).float()
        rounded = (matrix / tried).round_().clamp_(lowest, highest)
        error = (rounded * tried - matrix).square_().sum(-1, keepdim=True)
        scales, best = torch.where(error < best, tried, scales), torch.minimum(error, best)
    codes = (matrix / scales).round_().clamp_(lowest, highest)
    if storage == "int4":
        # the constant in z' meets the codes as well, whose sum rounding has moved away from 0
        offsets = offsets - (codes * scales).sum(-1) / (rank + 1)
        shifted = (codes + 8).to(torch.uint8)
        codes = shifted[:, 0::2] | (shifted[:, 1::2] << 4)
    return QuantizedRows(
        storage=storage,
        codes=codes if storage == "int4" else codes.to(torch.int8),
        scales=scales.squeeze(-1).to(torch.bfloat16),
        offsets=offsets.to(torch.bfloat16),
    )


def _rank_fits(rank: int, storage: Storage) -> bool:
    return {"bf16": rank > 0, "int8": rank > 0 and rank % INT8_STEP == 0, "int4": rank in INT4_RANKS}.get(
        storage, False
    )


@lru_cache(maxsize=8)
def _fused_kernel(storage: Storage, device: torch.device) -> Callable[..., Tensor] | None:
    """The Triton kernel for a storage; None where there is none or it does not run."""
    if device.type != "cuda" or storage == "bf16" or find_spec("triton") is None:
        return None
    from outlex.heads import triton_rows

    codes = torch.zeros(1, 32, dtype=_DTYPES[storage], device=device)
    z = torch.zeros(1, 64 if storage == "int4" else 32, dtype=torch.bfloat16, device=device)
    kernel = triton_rows.int4_scores if storage == "int4" else triton_rows.int8_scores
    try:
        kernel(z, codes, z[0, :1], z[0, :1])
    except Exception as error:  # CUDA builds of torch bring Triton, but not the C compiler and headers that it needs
        warnings.warn(
            f"The Triton kernel for {storage} rows does not run here; unpacked to bfloat16 they take more memory and"
            f" time. Often a C compiler or Python's headers are missing. {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return None
    return kernel


@lru_cache(maxsize=8)
def rotation(rank: int) -> Tensor:
    """Float32 [rank + 1, rank], orthonormal columns, each orthogonal to (1, …, 1). The same wherever it is made."""
    i = torch.arange(rank + 1, dtype=torch.float64).unsqueeze(-1)
    j = torch.arange(1, rank + 1, dtype=torch.float64)
    # the discrete cosine transform without its constant row
    turn: Tensor = torch.cos(torch.pi * (i + 0.5) * j / (rank + 1)) * (2 / (rank + 1)) ** 0.5
    return turn.float()


def _unpacked(packed: Tensor) -> Tensor:
    """uint8 [n, w] -> int8 [n, 2 w]."""
    return (torch.stack([packed & 15, packed >> 4], -1).to(torch.int8) - 8).flatten(-2)
