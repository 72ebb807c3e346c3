"""Which previews a byte budget buys: ranks, tiers and shortlists that read no more than so many bytes a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from outlex.errors import InputError
from outlex.heads.linear import LinearHead
from outlex.heads.preview_fit import Tier
from outlex.heads.quantized_rows import INT8_STEP, rotation_bytes, row_bytes

__all__ = ["PreviewPlan", "affordable_plans"]

# ranks of hot and cold rows, and of the second stage
_RANKS = ((127, 31, 224), (127, 63, 224), (127, 31, 320), (255, 63, 320), (63, 31, 160))
# candidates of the second stage and exact rows; many of these for laws with long tails, whose mass is lost otherwise
_SHORTLISTS = ((8192, 256), (8192, 512), (4096, 256), (8192, 1024), (16384, 4096))
_MIN_HOT = 512  # a first tier of fewer rows is not worth its own pass


@dataclass(frozen=True, kw_only=True)
class PreviewPlan:
    """Sizes of a preview.

    Attributes:
        tiers: of the first stage.
        fine_rank: of the second stage.
        n_candidates: rows that the second stage scores.
        n_exact: rows that are scored exactly.
        n_bytes: read a step, see `PreviewHead.bytes_per_step`.
    """

    tiers: tuple[Tier, ...]
    fine_rank: int
    n_candidates: int
    n_exact: int
    n_bytes: int

    @property
    def rank(self) -> int:
        """Directions it needs of a `PreviewSpace`."""
        return max([self.fine_rank, *(tier.rank for tier in self.tiers)])


def affordable_plans(linear: LinearHead, *, max_bytes: int, n_joining: int = 0) -> list[PreviewPlan]:
    """Plans that read at most `max_bytes` a step and leave little of that unused; the widest first tiers first.

    Args:
        linear: the drafter's whole head.
        max_bytes: budget of a step.
        n_joining: rows that the request's tokens add; they are part of the budget, and of no plan's `n_bytes`.

    Raises:
        InputError: not even the smallest preview of this head is that cheap.
    """
    joining = n_joining * linear.n_bytes // linear.n_rows
    found = dict.fromkeys(_plans(linear, max_bytes - joining))
    if not found:
        smallest = min((plan.n_bytes for plan in _plans(linear, None)), default=None)
        possible = smallest is not None and smallest + joining < linear.n_bytes
        raise InputError(
            "No preview of this head is so cheap",
            got=f"a budget of {max_bytes:,} bytes, {max_bytes / linear.n_bytes:.2%} of the head",
            expected=f"at least {_above((smallest + joining) / linear.n_bytes)} of the head"
            if smallest is not None and possible
            else "a larger head: 64 columns or more, and some thousand rows",
            next_step="give a larger --budget" if possible else "take --method in-context, or trim the drafter",
        )
    return sorted(found, key=lambda plan: (-plan.tiers[0].rank, -(plan.tiers[0].n_rows or linear.n_rows)))


def _above(share: float) -> str:
    """Rounded up, so that giving it as a budget works."""
    return f"{math.ceil(share * 1e4) / 1e4:.2%}"


def _plans(linear: LinearHead, max_bytes: int | None) -> Iterator[PreviewPlan]:
    """The plan of each shape that uses up `max_bytes`; without them the smallest."""
    n, d = linear.weight.shape
    for hot, cold, fine in _RANKS:
        if max(hot, fine) > d:
            fine = d // INT8_STEP * INT8_STEP
            if max(hot, fine) > d or hot > fine:
                continue
        for n_wanted, n_exact in _SHORTLISTS:
            n_candidates = min(n_wanted, n // 8)
            if n_candidates < 2 * n_exact:
                continue
            basis = max(hot, fine) * d * 2 + 4 * d + rotation_bytes(hot, "int4")
            # a candidate's id, int64, is read with its row
            fixed = basis + n_candidates * (row_bytes(fine, "int8") + 8) + n_exact * linear.n_bytes // n
            colder = rotation_bytes(cold, "int4")
            n_hot = _MIN_HOT
            if max_bytes is not None:
                left = max_bytes - fixed - colder - n * row_bytes(cold, "int4")
                n_hot = min(n, left // (row_bytes(hot, "int4") - row_bytes(cold, "int4")))
            if not _MIN_HOT <= n_hot <= n:
                continue
            tiers: tuple[Tier, ...] = (Tier(n_rows=None, rank=hot),)
            if n_hot < n:
                tiers = (Tier(n_rows=n_hot, rank=hot), Tier(n_rows=None, rank=cold))
                fixed += colder
            coarse = n_hot * row_bytes(hot, "int4") + (n - n_hot) * row_bytes(cold, "int4")
            yield PreviewPlan(
                tiers=tiers,
                fine_rank=fine,
                n_candidates=n_candidates,
                n_exact=n_exact,
                n_bytes=fixed + coarse,
            )
