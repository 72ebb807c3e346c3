"""Counting tokens in text, and ranking ids by their counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.errors import InputError, MismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["count_tokens", "rank_by_counts"]

_N_TEXTS_AT_ONCE = 256


def rank_by_counts(counts: Tensor) -> Tensor:
    """Ids with a count above 0, highest count first, ties by lower id: int64 ``[n]`` on the CPU.

    Args:
        counts: ``[n_tokenizer]``, any integer or float dtype.

    Raises:
        InputError: not 1-d, negative, or not finite.
    """
    counts = counts.detach().cpu()
    if counts.ndim != 1 or counts.dtype == torch.bool or counts.is_complex():
        fine = False
    else:
        fine = bool((counts >= 0).all()) and not bool(torch.isinf(counts).any())
    if not fine:
        raise InputError(
            "Counts are a 1-d tensor of finite numbers, none below 0",
            got=f"{counts.dtype} {list(counts.shape)}",
            expected="[n_tokenizer], int64 or float",
            next_step="check how the counts were made; NaN and negative counts are errors there",
        )
    order = torch.sort(counts, descending=True, stable=True).indices
    return order[: int((counts > 0).sum())]


def count_tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, n_tokenizer: int) -> Tensor:
    """How often each token occurs in ``texts``: int64 ``[n_tokenizer]``.

    No begin or end tokens are added; special tokens written out in a text count as what they are.

    Raises:
        InputError: ``texts`` is one string, or yields something that is not a string.
        MismatchError: the tokenizer gives ids from ``n_tokenizer`` on.
    """
    if isinstance(texts, str):
        raise InputError("texts is a single string", expected="an iterable of strings", next_step="pass [text]")
    counts = torch.zeros(n_tokenizer, dtype=torch.int64)
    for batch in _batches(texts):
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids = torch.tensor(list(chain.from_iterable(encoded["input_ids"])), dtype=torch.int64)
        batch_counts = torch.bincount(ids, minlength=n_tokenizer)
        if batch_counts.numel() > n_tokenizer:
            raise MismatchError(
                "The tokenizer gives ids that do not fit",
                got=f"id {int(ids.max())}",
                expected=f"ids below {n_tokenizer}",
                next_step="pass the tokenizer of the target, and its own number of entries",
            )
        counts += batch_counts
    return counts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _N_TEXTS_AT_ONCE)):
        for text in batch:
            if not isinstance(text, str):
                raise InputError(
                    "texts yields something that is not a string",
                    got=f"{text!r:.80}",
                    expected="strings",
                    next_step="take the text field of each record",
                )
        yield batch
