"""Choosing the ids of a sub-vocabulary from a ranking, with must-keep ids always among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outlex.errors import InputError, VocabError
from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["Selection", "check_size", "choose", "select_ids"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Chosen ids and where they came from.

    Attributes:
        ids: int64 ``[size]``, hottest first.
        kept: int64, the must-keep ids among them, ascending.
        origin: ``n_must_keep``; ``n_must_keep_outside_head``, must-keep ids beyond the target's head;
            ``n_displaced``, rows that the ranking alone would have given to another id; ``n_filled``,
            rows that are neither ranked nor must-keep.
    """

    ids: Tensor
    kept: Tensor
    origin: dict[str, int]


def select_ids(
    ranking: Sequence[int] | Tensor,
    *,
    size: int,
    facts: TokenizerFacts,
    n_target: int,
    must_keep_ids: Sequence[int],
) -> Selection:
    """The ``size`` hottest ids; see `outlex.vocab.sub_vocab.SubVocab.from_ranking` for the rules.

    Raises:
        InputError: ``size`` is not possible.
        VocabError: the ranking repeats an id or names one that the tokenizer does not have.
    """
    n_entries = facts.n_entries
    usable = torch.tensor([piece is not None for piece in facts.pieces])
    ranked = _ranked_ids(ranking, usable)
    usable[n_target:] = False
    ranked = ranked[usable[ranked]]
    must = _mask(torch.tensor(must_keep_ids, dtype=torch.int64), n_entries)
    n_outside_head = int((must & ~usable).sum())
    must &= usable
    n_must = int(must.sum())
    check_size(size, smallest=max(1, n_must), largest=int(usable.sum()))
    is_ranked = _mask(ranked, n_entries)
    order = torch.cat((ranked, (usable & ~is_ranked).nonzero().squeeze(-1)))
    ids = choose(order, must, size)
    origin = {
        "n_must_keep": n_must,
        "n_must_keep_outside_head": n_outside_head,
        "n_displaced": int((must & ~_mask(order[:size], n_entries)).sum()),
        "n_filled": int((~is_ranked & ~must)[ids].sum()),
    }
    return Selection(ids=ids, kept=must.nonzero().squeeze(-1), origin=origin)


def choose(order: Tensor, must: Tensor, size: int) -> Tensor:
    """``size`` of the ids in ``order``, order kept: all that ``must`` marks, then the first others.

    Args:
        order: int64 ``[n]``, each id once.
        must: bool, indexed by id; every marked id is in ``order``.
        size: at least as many as ``must`` marks.
    """
    is_must = must[order]
    place_among_others = torch.cumsum(~is_must, dim=0)
    return order[is_must | (place_among_others <= size - int(is_must.sum()))]


def check_size(size: int, *, smallest: int, largest: int) -> None:
    """Refuse a size outside ``smallest`` to ``largest`` with an InputError that names both."""
    if type(size) is not int or not smallest <= size <= largest:
        raise InputError(
            "The sub-vocabulary cannot have that size",
            got=repr(size),
            expected=f"a whole number from {smallest} (the must-keep ids) to {largest} (all there are)",
            next_step=f"choose a --size from {smallest} to {largest}",
        )


def _mask(ids: Tensor, n_entries: int) -> Tensor:
    mask = torch.zeros(n_entries, dtype=torch.bool)
    mask[ids] = True
    return mask


def _ranked_ids(ranking: Sequence[int] | Tensor, usable: Tensor) -> Tensor:
    got: object
    try:
        ids = torch.as_tensor(ranking).cpu()
        got = f"{ids.dtype} {list(ids.shape)}"
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        ids, got = torch.empty(0), error
    if ids.numel() == 0 and ids.ndim == 1 and not isinstance(got, Exception):
        return torch.empty(0, dtype=torch.int64)
    whole = ids.ndim == 1 and ids.dtype in (torch.int64, torch.int32)
    unknown = ids[~((ids >= 0) & (ids < usable.numel()))] if whole else ids
    if whole and not unknown.numel():
        unknown = ids[~usable[ids]]
    if not whole or unknown.numel():
        raise VocabError(
            "The ranking names something that is not an id of this tokenizer",
            got=f"{unknown.numel()} such ids, for example {unknown[:3].tolist()}" if whole else got,
            expected=f"whole numbers from 0 to {usable.numel() - 1} that have a piece",
            next_step="rank the tokens with the tokenizer of this target",
        )
    n_repeated = ids.numel() - int(torch.unique(ids).numel())
    if n_repeated:
        raise VocabError(
            "The ranking repeats ids",
            got=f"{n_repeated} repeated",
            expected="every id at most once",
            next_step="keep the first place of each id",
        )
    return ids.to(torch.int64)
