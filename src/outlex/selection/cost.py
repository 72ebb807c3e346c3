"""What one draft step costs, as a function of k, the rows of its LM head.

    F(k) = 2 · (Σ weights of every other matrix) + 2·d·k      FLOPs a token: one multiply and one add a weight
    B(k) = the bytes of the same weights, and of k head rows  bytes a token: each is read once
    R(k) = 1 − F(k) / F(V)                                    the share of the step that k rows save

Source: arXiv 2603.05210. As there, norms, rotary embeddings, the one embedding row and the attention over the context
are left out: none of them depends on k, and all but the last are negligible.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.models.output_head import output_head
from outlex.models.runner import BodyRunner

if TYPE_CHECKING:
    from outlex.models.load import LanguageModel

__all__ = ["Cost", "DrafterShape", "LinearCost", "reduction", "weight_bytes"]


class Cost(Protocol):
    """The cost of a draft step at any size."""

    @property
    def unit(self) -> str:
        """What `of` counts, plural: "FLOPs", "bytes", "seconds"."""

    @property
    def n_rows(self) -> int:
        """V: rows of the untrimmed head, padding included."""

    def of(self, sizes: Tensor) -> Tensor:
        """Cost at each size: int64 ``[n]`` -> float64 ``[n]``, above 0 and never falling as sizes rise."""

    def to_json(self) -> dict[str, Any]:
        """What it is made of, for the record."""


def reduction(cost: Cost, sizes: Tensor) -> Tensor:
    """R(k) = 1 − cost(k) / cost(V): int64 ``[n]`` -> float64 ``[n]``."""
    return 1 - cost.of(sizes) / cost.of(torch.tensor([cost.n_rows]))


@dataclass(frozen=True, kw_only=True)
class LinearCost:
    """A cost that grows by the same amount with every row.

    Attributes:
        unit: what it counts.
        n_rows: rows of the untrimmed head.
        fixed: cost of everything but the head.
        per_row: cost of one head row.
    """

    unit: str
    n_rows: int
    fixed: float
    per_row: float

    def __post_init__(self) -> None:
        fine = math.isfinite(self.fixed) and math.isfinite(self.per_row) and self.fixed >= 0 and self.per_row > 0
        if not fine or self.n_rows < 1:
            raise InputError(
                "This is not the cost of a draft step",
                got=f"fixed={self.fixed}, per_row={self.per_row}, n_rows={self.n_rows}",
                expected="a finite fixed cost of at least 0, a finite cost a row above 0, at least one row",
                next_step="check the shape of the drafter that the cost was made from",
            )

    def of(self, sizes: Tensor) -> Tensor:
        return self.fixed + self.per_row * sizes.double()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "head_share": self.head_share}

    @property
    def head_share(self) -> float:
        """Share of the untrimmed step that the head takes."""
        return self.per_row * self.n_rows / (self.fixed + self.per_row * self.n_rows)


@dataclass(frozen=True, kw_only=True)
class DrafterShape:
    """The matrices that a draft step multiplies by. `outlex.selection.architecture` reads it from a config.

    Attributes:
        hidden_size: d.
        intermediate_size: f, width inside the gated MLP.
        n_heads, n_kv_heads, head_dim: of the attention.
        n_layers: decoder layers.
        n_rows: V, rows of the untrimmed head, padding included.
        attention_size: width of what the attention reads: d, or 2d in an EAGLE-3 head (embedding beside feature).
        feature_size: width of what the fusing layer reads: 0 without one, 3 · d of the target in an EAGLE-3 head.

    Raises:
        InputError: a size that cannot be.
    """

    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_layers: int
    n_rows: int
    attention_size: int
    feature_size: int = 0

    def __post_init__(self) -> None:
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        wrong = {
            name: size
            for name, size in sizes.items()
            if type(size) is not int or size < (0 if name == "feature_size" else 1)
        }
        if wrong or self.n_heads % self.n_kv_heads:
            raise InputError(
                "This is not the shape of a drafter",
                got=wrong or f"{self.n_heads} heads that share {self.n_kv_heads} keys and values",
                expected="whole numbers of at least 1, and as many heads for each key-value head",
                next_step="check the drafter's config.json",
            )

    @property
    def weights(self) -> dict[str, int]:
        """Weights of every matrix but the head, by part."""
        d, inner = self.hidden_size, self.n_heads * self.head_dim
        shared = self.n_kv_heads * self.head_dim
        return {
            "fc": self.feature_size * d,
            "attention_q": self.n_layers * self.attention_size * inner,
            "attention_k": self.n_layers * self.attention_size * shared,
            "attention_v": self.n_layers * self.attention_size * shared,
            "attention_o": self.n_layers * inner * d,
            "mlp": self.n_layers * 3 * d * self.intermediate_size,
        }

    def flops_by_part(self, n_draft: int) -> dict[str, int]:
        """FLOPs a token with ``n_draft`` head rows, by part, the head last."""
        parts = {name: 2 * n_weights for name, n_weights in self.weights.items()}
        return {**parts, "head": 2 * self.hidden_size * n_draft}

    def flops(self) -> LinearCost:
        """F(k)."""
        fixed = 2 * sum(self.weights.values())
        return LinearCost(unit="FLOPs", n_rows=self.n_rows, fixed=fixed, per_row=2 * self.hidden_size)

    def bytes(self, *, body_bits: float = 16, head_bits: float = 16) -> LinearCost:
        """B(k), from the bits of a weight; for a loaded model see `weight_bytes`."""
        fixed = sum(self.weights.values()) * body_bits / 8
        per_row = self.hidden_size * head_bits / 8
        return LinearCost(unit="bytes", n_rows=self.n_rows, fixed=fixed, per_row=per_row)


def weight_bytes(loaded: LanguageModel) -> LinearCost:
    """B(k) of a loaded drafter, from the weights as they are, whatever its architecture and quantisation.

    Raises:
        ModelError: its head cannot be sliced, or its cache cannot be rolled back.
    """
    head = output_head(loaded)
    fixed = BodyRunner(loaded).bytes_per_step
    return LinearCost(unit="bytes", n_rows=head.n_rows, fixed=fixed, per_row=head.n_bytes / head.n_rows)
