"""Trim, do not trim, or change the list: SlimSpec's cost gate (arXiv 2605.10453), with intervals.

A trim pays if ρ_τ > (1 + νκ) / (1 + κ): the share of τ that is kept exceeds the share of a block's cost that is left.
κ is the cost of a block's draft heads over the cost of the rest of the block, ν the trimmed head's cost over the whole
head's. The rest counts the target pass, not the draft bodies alone, because that is what a user waits for: a gate on
the draft step would let trims pass that make decoding slower. A block's cost is its mean along the texts, where the
last blocks before `max_new_tokens` propose fewer drafts, so that the gate opens exactly where the speed-up exceeds 1.

Another list is advised where this one does not pay, and one that is ranked on half of the traced prompts, and judged on
the other half, keeps so much more of the target's mass at the same size that it would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from outlex.forecast.result import Cell, Verdict
from outlex.metrics import block_efficiency

__all__ = ["kept_by_a_traced_list", "verdicts_of"]


def verdicts_of(cells: Sequence[Cell], *, mass_of_half: Tensor, n_of_half: tuple[int, int]) -> Iterator[Verdict]:
    """One verdict a trimmed candidate.

    Args:
        cells: of one temperature and draft length, over all prompts, the untrimmed head first.
        mass_of_half, n_of_half: see `OverlapTable`.
    """
    untrimmed, *trimmed = cells
    for cell in trimmed:
        kept = cell.block_efficiency.value / untrimmed.block_efficiency.value
        needed = kept / cell.over_untrimmed.value
        better = kept_by_a_traced_list(mass_of_half, n_of_half, cell.n_draft)
        decision = _decision(cell, untrimmed, better)
        yield Verdict(
            candidate=cell.candidate,
            temperature=cell.temperature,
            draft_len=cell.draft_len,
            decision=decision,
            kept=kept,
            needed=needed,
            in_seconds=cell.tokens_per_s is not None,
            sentence=_sentence(cell, decision, kept, needed, better),
        )


def kept_by_a_traced_list(mass_of_half: Tensor, n_of_half: tuple[int, int], size: int) -> float | None:
    """Target mass that the `size` most probable tokens of one half keep in the other, averaged over both directions.

    Args:
        mass_of_half: Σ p over the positions of each half, float64 [2, n_target].
        n_of_half: positions of each half.
        size: rows of the list.

    Returns:
        A share of the mass; None if one half is empty.
    """
    if 0 in n_of_half:
        return None
    means = mass_of_half / torch.tensor(n_of_half, dtype=torch.float64).unsqueeze(-1)
    size = min(size, means.shape[1])
    shares = [float(means[1 - half][means[half].topk(size).indices].sum()) for half in (0, 1)]
    return sum(shares) / 2


def _decision(cell: Cell, untrimmed: Cell, better: float | None) -> str:
    gain = cell.over_untrimmed
    if gain.value > 1 and not gain.low <= 1:
        return "trim"
    if better is not None and better > cell.ceiling > 0:
        # β shrinks about as the kept mass does, and cannot pass the untrimmed head's
        alpha = cell.acceptance_rate.value
        possible = min(alpha * better / cell.ceiling, max(untrimmed.acceptance_rate.value, alpha), 1.0)
        change = block_efficiency(possible, cell.draft_len) / block_efficiency(min(alpha, 1.0), cell.draft_len)
        if gain.value * change > 1 >= gain.value:
            return "change the list"
    if gain.value < 1 and not gain.high >= 1:
        return "do not trim"
    return "no clear difference"


def _sentence(cell: Cell, decision: str, kept: float, needed: float, better: float | None) -> str:
    gain, unit = cell.over_untrimmed, "bytes of weights" if cell.tokens_per_s is None else "measured seconds"
    interval = (
        f", 95 % interval {gain.low:.3f} to {gain.high:.3f}"
        if not math.isnan(gain.low)
        else ", one prompt: no interval"
    )
    numbers = (
        f"{cell.candidate} at T = {cell.temperature:g}, γ = {cell.draft_len} keeps {kept:.1%} of τ and needs"
        f" {needed:.1%} to pay, in {unit}: × {gain.value:.3f} of the untrimmed speed{interval}"
    )
    if decision == "change the list" and better is not None:
        numbers += (
            f". It leaves {cell.oov_mass.value:.1%} of the target's mass outside; as many tokens ranked on half of"
            f" these prompts leave {1 - better:.1%} in the other half"
        )
    return f"{decision}: {numbers}."
