"""Fitting a preview: low-rank factors of the drafter's head that are good where its hidden states are.

With mean m and covariance Σ = L Lᵀ of the hidden states h on traces, and head rows W,

    W h  =  W m  +  (W L) (L⁻¹ (h − m))                the second factor is white: covariance 1
         ≈  W m  +  (W L U) (Uᵀ L⁻¹ (h − m))           U: leading eigenvectors of (W L)ᵀ(W L)

is the best approximation of that rank in mean squared error over the traces' hidden states and all rows. A plain SVD of
W is the best one for hidden states that are white themselves, which they are far from. Ours; compare SpecVocab
(arXiv 2602.13836) and SlimSpec (arXiv 2605.10453), which train their factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outlex.errors import ArtifactError, InputError, NumericalError
from outlex.heads.linear import LinearHead
from outlex.heads.quantized_rows import QuantizedRows, Storage, quantize_rows

__all__ = ["MIN_POSITIONS", "PreviewFactor", "PreviewSpace", "Tier"]

MIN_POSITIONS = 200  # below that, what is kept of untrimmed acceptance falls by points (docs/heads.md)
_ROWS_AT_ONCE = 16384
_RANKED_POSITIONS = 2048  # mean probabilities need no more to tell hot tokens from cold ones
_PRIOR_POSITIONS = 200.0  # the tokenizer's own order counts as much as so many positions


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Rows that share a rank in the first stage.

    Attributes:
        n_rows: how many; None for all that are left.
        rank: coordinates.
        storage: of their codes.
    """

    n_rows: int | None
    rank: int
    storage: Storage = "int4"


@dataclass(frozen=True, kw_only=True, eq=False)
class PreviewFactor:
    """A fitted preview, as it is stored.

    Attributes:
        mean: float32 [d], mean hidden state.
        basis: bfloat16 [rank, d]: z = basis · (h − mean), leading directions first.
        order: int64 [n_rows], row of the drafter's head that each row of the stages stands for, hottest first.
        coarse: the first stage: all rows in tiers, each scored with the first coordinates of z.
        fine: the second stage: all rows again, scored with all coordinates, for candidates alone; None without one.
        n_positions: calibration positions.
    """

    mean: Tensor = field(repr=False)
    basis: Tensor = field(repr=False)
    order: Tensor = field(repr=False)
    coarse: tuple[QuantizedRows, ...] = field(repr=False)
    fine: QuantizedRows | None = field(repr=False)
    n_positions: int

    def __post_init__(self) -> None:
        ranks = [rows.rank for rows in (*self.coarse, *([] if self.fine is None else [self.fine]))]
        fits = (
            len(self.coarse) > 0
            and (self.mean.ndim, self.basis.ndim, self.order.ndim) == (1, 2, 1)
            and (self.mean.dtype, self.basis.dtype, self.order.dtype) == (torch.float32, torch.bfloat16, torch.int64)
            and self.basis.shape == (max(ranks), self.hidden_size)
            and sum(rows.n_rows for rows in self.coarse) == self.n_rows
            and torch.equal(self.order.sort().values, torch.arange(self.n_rows))
            and (self.fine is None or (self.fine.n_rows == self.n_rows and self.fine.storage != "int4"))
        )
        if not fits:
            raise ArtifactError(
                "The parts of this preview do not fit each other",
                got=f"mean {list(self.mean.shape)}, basis {list(self.basis.shape)}, order {list(self.order.shape)},"
                f" ranks {ranks}",
                expected="float32 [d], bfloat16 [largest rank, d], every row once in order and in each stage",
                next_step="fit the head again with `outlex fit-head`",
            )

    @property
    def n_rows(self) -> int:
        """Rows of the head it was fitted for."""
        return self.order.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.mean.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class PreviewSpace:
    """What calibration says of a head: directions by importance, and tokens by heat. Every preview is cut out of it.

    Attributes:
        linear: the head.
        mean: float32 [d].
        basis: float32 [rank, d], rows of Uᵀ L⁻¹.
        loadings: float32 [d, rank], columns of L U, scaled as the head scales.
        order: int64 [n_rows], hottest first.
        n_positions: calibration positions.
    """

    linear: LinearHead = field(repr=False)
    mean: Tensor = field(repr=False)
    basis: Tensor = field(repr=False)
    loadings: Tensor = field(repr=False)
    order: Tensor = field(repr=False)
    n_positions: int

    @classmethod
    def fit(cls, linear: LinearHead, hidden: Tensor, *, rank: int = 256, shrinkage: float = 0.05) -> PreviewSpace:
        """Seconds on a CPU, no training.

        Args:
            linear: the drafter's whole head. Its scale is part of the space; a softcap changes no order and is not.
            hidden: [n, d] calibration states, after the drafter's last norm.
            rank: directions to keep.
            shrinkage: share of the covariance that is replaced by its diagonal; helps text unlike the traces.

        Raises:
            InputError: too few positions, or a rank that does not fit the head.
            NumericalError: a hidden state is NaN or infinite, or all are the same.
        """
        _check(linear, hidden, rank=rank, shrinkage=shrinkage)
        exact = hidden.to(linear.weight.device, torch.float64)
        mean = exact.mean(0)
        centred = exact - mean
        covariance = centred.T @ centred / len(exact)
        diagonal = covariance.diagonal()
        if not bool(diagonal.sum() > 0):
            raise NumericalError(
                "The hidden states are all the same",
                got=f"{len(exact)} positions without variance",
                expected="hidden states of different texts",
                next_step="trace more prompts with `outlex trace`",
            )
        covariance = (1 - shrinkage) * covariance + torch.diag(shrinkage * diagonal + 1e-6 * diagonal.mean())
        root = torch.linalg.cholesky(covariance)
        directions = _leading(linear, root.float(), rank)
        return cls(
            linear=linear,
            mean=mean.float(),
            basis=torch.linalg.solve_triangular(root.T, directions, upper=True).T.float(),
            loadings=(root @ directions).float() * linear.scale,
            order=_hottest_first(linear, hidden),
            n_positions=len(hidden),
        )

    def factor(self, tiers: Sequence[Tier], *, fine_rank: int) -> PreviewFactor:
        """A preview with these stages.

        Args:
            tiers: of the first stage, hottest tokens first; the last one takes the rows that are left.
            fine_rank: coordinates of the second stage, int8; 0 for none.

        Raises:
            InputError: tiers that do not cover the head, or ranks that the space or a storage does not have.
        """
        sizes = [tier.n_rows for tier in tiers]
        counted = [size for size in sizes if size is not None]
        n_left = self.linear.n_rows - sum(counted)
        if sizes[-1:] != [None] or len(counted) != len(sizes) - 1 or min([n_left, *counted]) < 1:
            raise InputError(
                "These tiers do not cover the head",
                got=f"{sizes} rows",
                expected=f"numbers of at least 1, then None; fewer than {self.linear.n_rows} together",
                next_step="choose smaller tiers",
            )
        rank = max([fine_rank, *(tier.rank for tier in tiers)])
        if fine_rank < 0 or min(tier.rank for tier in tiers) < 1 or rank > len(self.basis):
            raise InputError(
                "The calibration does not have the directions that this preview needs",
                got=f"ranks {[tier.rank for tier in tiers]}, and {fine_rank} for the second stage",
                expected=f"ranks from 1 to {len(self.basis)}, or 0 for no second stage",
                next_step="fit with a larger rank, or choose other ones here",
            )
        parts = torch.split(self.order, [*counted, n_left])
        return PreviewFactor(
            mean=self.mean.cpu(),
            basis=self.basis[:rank].to(torch.bfloat16).cpu(),
            order=self.order.cpu(),
            coarse=tuple(self._stage(rows, tier.rank, tier.storage) for rows, tier in zip(parts, tiers, strict=True)),
            fine=self._stage(self.order, fine_rank, "int8") if fine_rank else None,
            n_positions=self.n_positions,
        )

    def _stage(self, rows: Tensor, rank: int, storage: Storage) -> QuantizedRows:
        blocks = []
        for ids in torch.split(rows, _ROWS_AT_ONCE):
            weight = self.linear.weight.index_select(0, ids).float()
            offsets = weight @ self.mean
            if self.linear.bias is not None:
                offsets = offsets + self.linear.bias.index_select(0, ids).float()
            blocks.append(quantize_rows(weight @ self.loadings[:, :rank], offsets * self.linear.scale, storage))
        return QuantizedRows(
            storage=storage,
            codes=torch.cat([block.codes for block in blocks]).cpu(),
            scales=torch.cat([block.scales for block in blocks]).cpu(),
            offsets=torch.cat([block.offsets for block in blocks]).cpu(),
        )


def _leading(linear: LinearHead, root: Tensor, n: int) -> Tensor:
    """The first n eigenvectors of (W L)ᵀ(W L), float64 [d, n]."""
    gram = torch.zeros(root.shape, dtype=torch.float64, device=root.device)
    for block in torch.split(linear.weight, _ROWS_AT_ONCE):
        whitened = block.float() @ root
        gram += (whitened.T @ whitened).double()
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors.flip(-1)[:, :n]


def _hottest_first(linear: LinearHead, hidden: Tensor) -> Tensor:
    """Rows by the drafter's mean probability; those it never thinks of in the tokenizer's order (by id)."""
    device, n = linear.weight.device, linear.n_rows
    picked = hidden[torch.linspace(0, len(hidden) - 1, min(len(hidden), _RANKED_POSITIONS)).long()]
    mass = torch.zeros(n, dtype=torch.float64, device=device)
    for block in torch.split(picked.to(device, linear.weight.dtype), 64):
        mass += torch.softmax(linear.logits(block).float(), -1).sum(0)
    prior = 1 / (torch.arange(n, dtype=torch.float64, device=device) + 300)  # merge order is a list by frequency
    return (mass + _PRIOR_POSITIONS * prior / prior.sum()).argsort(descending=True, stable=True)


def _check(linear: LinearHead, hidden: Tensor, *, rank: int, shrinkage: float) -> None:
    d = linear.weight.shape[1]
    if hidden.ndim != 2 or hidden.shape[1] != d:
        raise InputError(
            "The hidden states are not of this head",
            got=f"shape {list(hidden.shape)}",
            expected=f"[positions, {d}]",
            next_step="give the drafter's hidden states, not the target's",
        )
    n = len(hidden)
    if n < MIN_POSITIONS:
        raise InputError(
            "Too few positions for a stable covariance",
            got=f"{n} positions",
            expected=f"at least {MIN_POSITIONS}; 2,000 or more of all your domains are better",
            next_step="trace more prompts, or longer responses, with `outlex trace`",
        )
    if not 1 <= rank <= d or not 0 <= shrinkage < 1:
        raise InputError(
            "No preview can be fitted like this",
            got=f"rank {rank}, shrinkage {shrinkage}",
            expected=f"a rank from 1 to {d}, and 0 <= shrinkage < 1",
            next_step="choose another rank",
        )
    broken = ~hidden.isfinite().all(-1)
    if bool(broken.any()):
        raise NumericalError(
            "The hidden states hold NaN or infinity",
            got=f"{int(broken.sum())} of {n} positions, first {int(broken.nonzero()[0])}",
            expected="finite numbers",
            next_step="trace again in float32 (--dtype float32); if it stays, the checkpoint is damaged",
        )
