"""From logits to the law that is sampled: repetition penalty, temperature, top-k, top-p, min-p, in that order.

The target's law p is *defined* by these transforms; the drafter goes through the same ones, which costs nothing in
exactness (any q̃ is lossless) and raises acceptance. Temperature 0 is the law with all its mass on the arg-max, so
greedy decoding needs no code of its own: acceptance, residual and bonus come out right by the same formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from outlex.errors import InputError

__all__ = ["SamplingParams", "penalize_repetition", "probabilities"]

_NUCLEUS_GUESS = 1024  # top-p on CPU looks at this many hottest tokens before it sorts the whole row


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn from logits. The defaults leave the model's law as it is.

    Attributes:
        temperature: 0 is greedy; logits are divided by it otherwise.
        top_k: keep the k most probable tokens (ties with the k-th are all kept); 0 keeps all.
        top_p: keep the smallest set of most probable tokens whose mass reaches top_p; 1 keeps all.
        min_p: keep tokens at least min_p times as probable as the most probable one; 0 keeps all.
        repetition_penalty: tokens already in the context get positive logits divided and negative ones multiplied
            by it (CTRL, arXiv 1909.05858); 1 is off. It reads prompt and output, as transformers does.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, self.temperature >= 0, "a finite number >= 0 (0 is greedy)")
        _check("top_k", self.top_k, isinstance(self.top_k, int) and self.top_k >= 0, "an integer >= 0 (0 is off)")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "0 < top_p <= 1 (1 is off)")
        _check("min_p", self.min_p, 0 <= self.min_p < 1, "0 <= min_p < 1 (0 is off)")
        _check("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "a number > 0 (1 is off)")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def is_plain(self) -> bool:
        """Whether the law is the softmax of the logits, but for the repetition penalty."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1 and self.min_p == 0


def _check(name: str, value: float, ok: bool, expected: str) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not ok:
        raise InputError(f"The sampling parameter {name} cannot be used", got=value, expected=expected)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Apply the repetition penalty.

    Args:
        logits: [n, m].
        seen: tokens already in the context, bool [n, m] (or [m] when all rows share it).
        penalty: > 0; 1 changes nothing.

    Returns:
        New logits [n, m]; the input is left alone.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """The law that `params` make of logits (the repetition penalty is applied before, by the caller).

    Args:
        logits: [n, m]; -inf marks impossible entries. float64 stays float64, everything else is computed in float32.
        params: temperature and filters.

    Returns:
        Probabilities [n, m]. Rows that hold NaN, +inf, or nothing but -inf come back as NaN from end to end, so that
        the caller can find them in a check it makes anyway.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if params.is_plain:
        return logits.softmax(-1)  # NaN from end to end where the row is broken
    top, best = logits.max(-1, keepdim=True)  # max passes NaN on
    broken = ~top.isfinite()
    if params.greedy:
        probs = torch.zeros_like(logits).scatter_(-1, best, 1.0)
    else:
        probs = _filtered_softmax((logits - top) / params.temperature, params)
    return probs.masked_fill_(broken, torch.nan)


def _filtered_softmax(scores: Tensor, params: SamplingParams) -> Tensor:
    if 0 < params.top_k < scores.shape[-1]:
        kth = scores.topk(params.top_k, sorted=True).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    probs = scores.softmax(-1)
    if params.top_p < 1:
        probs = _renormalized(probs, probs >= _nucleus_floor(probs, params.top_p))
    if params.min_p > 0:
        probs = _renormalized(probs, probs >= params.min_p * probs.amax(-1, keepdim=True))
    return probs


def _renormalized(probs: Tensor, keep: Tensor) -> Tensor:
    kept = torch.where(keep, probs, probs.new_zeros(()))
    return kept / kept.sum(-1, keepdim=True)


def _nucleus_floor(probs: Tensor, top_p: float) -> Tensor:
    """Probability [n, 1] of the least probable token of the nucleus; tokens that tie with it are inside as well."""
    m = probs.shape[-1]
    if probs.device.type == "cpu" and m > _NUCLEUS_GUESS:
        # a full sort of 150k entries costs ten times the softmax, and the nucleus is nearly always small
        hottest = probs.topk(_NUCLEUS_GUESS, sorted=True).values
        if bool((hottest.sum(-1, dtype=torch.float64) >= top_p).all()):
            return _floor_of(hottest, top_p)
    return _floor_of(probs.sort(-1, descending=True).values, top_p)


def _floor_of(descending: Tensor, top_p: float) -> Tensor:
    mass_before = descending.cumsum(-1, dtype=torch.float64) - descending
    n_kept = (mass_before < top_p).sum(-1, keepdim=True).clamp_min(1)  # NaN rows: keep the first, it stays NaN
    return descending.gather(-1, n_kept - 1)
