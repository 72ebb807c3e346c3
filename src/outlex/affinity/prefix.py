"""Affinity of a token to the longer tokens that begin with it, by their bytes.

A drafter token is evidence for the target tokens that it is the beginning of: where the drafter can only say "in", the
target may say "int" or "inside". Ours; the case in which a cold token's probability can be read off a hot token's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from outlex.affinity.base import Affinity
from outlex.errors import InputError

__all__ = ["StringPrefix"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StringPrefix(Affinity):
    """log prior(j) where the bytes of j begin with those of i, -inf elsewhere. Made by `of_bytes`.

    Tokens that begin alike lie together when sorted by bytes, so a row of matches is two numbers.

    Attributes:
        log_prior: floating [n_target].
        rank: int64 [n_target], place of each target token among those that have bytes, sorted by them; -1 without.
        start, end: int64 [n_rows], the places that a row matches; both 0 where its token has no bytes.
    """

    kind: ClassVar[str] = "string-prefix"

    log_prior: Tensor = field(repr=False)
    rank: Tensor = field(repr=False)
    start: Tensor = field(repr=False)
    end: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        fits = (
            self.log_prior.shape == self.rank.shape
            and self.start.shape == self.end.shape
            and self.rank.ndim == self.start.ndim == 1
            and not bool(self.log_prior.isnan().any())
        )
        if not fits:
            raise InputError(
                "The prior and the tokens do not fit each other",
                got=f"prior {list(self.log_prior.shape)}, {len(self.rank)} tokens",
                expected="one number a token of the target, not negative",
                next_step="pass the mean probability of each token, or none for equal weights",
            )

    @classmethod
    def of_bytes(
        cls,
        row_bytes: Sequence[bytes | None],
        target_bytes: Sequence[bytes | None],
        *,
        prior: Tensor | None = None,
    ) -> StringPrefix:
        """Match two lists of spellings (`outlex.vocab.tokenizer_facts.piece_bytes`).

        Args:
            row_bytes: of the drafter's tokens: a row's id is its place here. The target's own list for one tokenizer.
            target_bytes: of the target's tokens; None and empty spellings match nothing. May be shorter than `prior`
                (padding).
            prior: how probable each target token is, [n_target], any scale; equal by default.

        Raises:
            InputError: the prior is shorter than the target's list, or negative.
        """
        if prior is None:
            prior = torch.ones(len(target_bytes))
        spelled = sorted((text, index) for index, text in enumerate(target_bytes) if text)
        if prior.ndim != 1 or prior.shape[0] < len(target_bytes):
            raise InputError(
                "The prior lacks tokens of the target",
                got=f"{list(prior.shape)}",
                expected=f"at least {len(target_bytes)} numbers",
                next_step="pass one number a row of the target's head, or no prior",
            )
        rank = torch.full((prior.shape[0],), -1, dtype=torch.int64)
        rank[[index for _, index in spelled]] = torch.arange(len(spelled))
        texts = [text for text, _ in spelled]
        bounds = [(bisect_left(texts, text), _end(texts, text)) if text else (0, 0) for text in row_bytes]
        ranges = torch.tensor(bounds, dtype=torch.int64).view(-1, 2)
        return cls(log_prior=prior.log(), rank=rank, start=ranges[:, 0].clone(), end=ranges[:, 1].clone())

    @property
    def n_target(self) -> int:
        return self.rank.shape[0]

    def rows(self, ids: Tensor) -> Tensor:
        start, end = self.start[ids].unsqueeze(-1), self.end[ids].unsqueeze(-1)
        begins = (self.rank >= start) & (self.rank < end)
        return torch.where(begins, self.log_prior, -torch.inf)


def _end(texts: list[bytes], prefix: bytes) -> int:
    """First place behind all texts that begin with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return len(texts)
    return bisect_left(texts, stem[:-1] + bytes([stem[-1] + 1]))
