"""Rows of the draft head against ids of the target: tensors only, ready for the hot path."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from outlex.errors import VocabError

__all__ = ["TokenMap"]


class TokenMap:
    """A one-to-one map between draft rows and target ids, with holes on both sides.

    Construction checks the map and may wait for the device. After it, no method waits: everything
    that depends on the contents is an index tensor computed once.

    Args:
        draft_to_target: int64 ``[n_draft]``, the target id of each row, -1 where the target has no
            such token. ``None`` is the identity: row i is id i, and rows or ids beyond the narrower
            side are unknown to it (the two widths differ when a head is padded).
        n_draft: rows of the draft head.
        n_target: width of the target's head, padding included.

    Raises:
        VocabError: sizes below 1, a wrong dtype or shape, ids out of range, or an id named twice.
    """

    __slots__ = (
        "_device",
        "_draft_to_target",
        "_from_draft",
        "_known",
        "_known_rows",
        "_n_draft",
        "_n_target",
        "_scatter_ids",
        "_target_to_draft",
        "_to_draft",
    )

    def __init__(self, draft_to_target: Tensor | None, *, n_draft: int, n_target: int) -> None:
        if n_draft < 1 or n_target < 1:
            raise VocabError(
                "A token map needs at least one row on each side",
                got=f"n_draft={n_draft}, n_target={n_target}",
                expected="two sizes of at least 1",
                next_step="pass the number of rows of the draft head and of the target's head",
            )
        self._n_draft = n_draft
        self._n_target = n_target
        # Lookup tables of maps other than the identity. Both end in one more entry, -1: an index of -1
        # wraps to it and so stays -1.
        self._from_draft: Tensor | None = None
        self._to_draft: Tensor | None = None
        # Which rows scatter() takes (None for all of them) and where it puts them.
        self._known_rows: Tensor | None = None
        self._scatter_ids: Tensor | None = None
        # What the properties give out.
        self._draft_to_target: Tensor | None = None
        self._target_to_draft: Tensor | None = None
        self._known: Tensor | None = None
        self._device = torch.device("cpu")
        if draft_to_target is None:
            if n_draft > n_target:
                self._known = torch.arange(n_draft) < n_target
            return
        _check(draft_to_target, n_draft=n_draft, n_target=n_target)
        self._device = draft_to_target.device
        rows = torch.arange(n_draft, device=self._device)
        known = draft_to_target >= 0
        if not bool(known.all()):
            self._known = known
            self._known_rows = rows[known]
        self._scatter_ids = draft_to_target[known]
        self._from_draft = F.pad(draft_to_target, (0, 1), value=-1)
        self._to_draft = torch.full((n_target + 1,), -1, dtype=torch.int64, device=self._device)
        self._to_draft[self._scatter_ids] = rows[known]
        self._draft_to_target = self._from_draft[:-1]
        self._target_to_draft = self._to_draft[:-1]

    @classmethod
    def identity(cls, n_draft: int, n_target: int) -> TokenMap:
        """The map of two models that share a tokenizer; the widths may differ by padding."""
        return cls(None, n_draft=n_draft, n_target=n_target)

    @property
    def n_draft(self) -> int:
        """Rows of the draft head."""
        return self._n_draft

    @property
    def n_target(self) -> int:
        """Width of the target's head, padding included."""
        return self._n_target

    @property
    def is_identity(self) -> bool:
        """Whether row i is id i for every row that both sides have, by construction."""
        return self._scatter_ids is None

    @property
    def device(self) -> torch.device:
        """Where the index tensors are; ids and rows must come from there."""
        return self._device

    @property
    def draft_to_target(self) -> Tensor:
        """int64 ``[n_draft]``: target id of each row, -1 when the target has no such token."""
        if self._draft_to_target is None:
            self._draft_to_target = self._built(self._n_draft, self._n_target)
        return self._draft_to_target

    @property
    def target_to_draft(self) -> Tensor:
        """int64 ``[n_target]``: row of each target id, -1 when the draft head has no such row."""
        if self._target_to_draft is None:
            self._target_to_draft = self._built(self._n_target, self._n_draft)
        return self._target_to_draft

    @property
    def known(self) -> Tensor | None:
        """bool ``[n_draft]``: rows the target knows; ``None`` when it knows them all."""
        return self._known

    def to_target(self, rows: Tensor) -> Tensor:
        """Target ids of ``rows`` (int64, any shape); -1 stays -1, as does a row the target lacks."""
        if self._from_draft is not None:
            return self._from_draft[rows]
        return rows if self._n_draft <= self._n_target else torch.where(rows < self._n_target, rows, -1)

    def to_draft(self, ids: Tensor) -> Tensor:
        """Rows of target ``ids`` (int64, any shape); -1 stays -1, as does an id without a row."""
        if self._to_draft is not None:
            return self._to_draft[ids]
        return ids if self._n_target <= self._n_draft else torch.where(ids < self._n_draft, ids, -1)

    def scatter(self, values: Tensor) -> Tensor:
        """``values [..., n_draft]`` as ``[..., n_target]``: zero at ids without a row.

        As a loop: ``out[..., draft_to_target[row]] = values[..., row]`` for every row that the target
        knows. For an identity of equal widths the input itself comes back, and for a wider draft
        head a view of it.
        """
        if self._scatter_ids is None:
            return _resize_last(values, self._n_target)
        if self._known_rows is not None:
            values = values.index_select(-1, self._known_rows)
        out = values.new_zeros(*values.shape[:-1], self._n_target)
        return out.index_copy_(-1, self._scatter_ids, values)

    def to(self, device: torch.device | str) -> TokenMap:
        """The same map on ``device``; the map itself when it is there already."""
        # "cuda" becomes "cuda:0" only on a tensor.
        device = torch.empty(0, device=device).device
        if device == self._device:
            return self
        moved = TokenMap(None, n_draft=self._n_draft, n_target=self._n_target)
        moved._device = device
        for name in ("_from_draft", "_to_draft", "_known_rows", "_scatter_ids", "_known"):
            tensor = getattr(self, name)
            setattr(moved, name, None if tensor is None else tensor.to(device))
        if moved._from_draft is not None and moved._to_draft is not None:
            moved._draft_to_target = moved._from_draft[:-1]
            moved._target_to_draft = moved._to_draft[:-1]
        return moved

    def __repr__(self) -> str:
        kind = "identity, " if self.is_identity else ""
        return f"TokenMap({kind}n_draft={self._n_draft}, n_target={self._n_target}, device={self._device})"

    def _built(self, n_from: int, n_to: int) -> Tensor:
        """Identity table int64 ``[n_from]``, -1 from ``n_to`` on."""
        # Built once and kept: it must not become a tensor that autograd refuses afterwards.
        with torch.inference_mode(False):
            index = torch.arange(n_from, device=self._device)
            return index if n_from <= n_to else torch.where(index < n_to, index, -1)


def _resize_last(values: Tensor, width: int) -> Tensor:
    missing = width - values.shape[-1]
    if missing == 0:
        return values
    return F.pad(values, (0, missing)) if missing > 0 else values[..., :width]


def _check(draft_to_target: Tensor, *, n_draft: int, n_target: int) -> None:
    if draft_to_target.dtype != torch.int64 or draft_to_target.shape != (n_draft,):
        raise VocabError(
            "draft_to_target has the wrong dtype or shape",
            got=f"{draft_to_target.dtype} {list(draft_to_target.shape)}",
            expected=f"torch.int64 [{n_draft}]",
            next_step="pass one absolute target id for each draft row, -1 where there is none",
        )
    low, high = int(draft_to_target.min()), int(draft_to_target.max())
    if low < -1 or high >= n_target:
        raise VocabError(
            "draft_to_target names ids that the target does not have",
            got=f"ids from {low} to {high}",
            expected=f"-1, or an id from 0 to {n_target - 1}",
            next_step="check that the map was built for this target and holds absolute ids, not offsets",
        )
    ids = draft_to_target[draft_to_target >= 0]
    n_repeated = ids.numel() - int(torch.unique(ids).numel())
    if n_repeated:
        raise VocabError(
            "draft_to_target gives one target id to several rows",
            got=f"{n_repeated} repeated ids",
            expected="every target id at most once",
            next_step="keep one row for each id; probabilities cannot be scattered otherwise",
        )
