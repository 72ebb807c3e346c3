"""The preview head: score every token roughly, a few thousand better, a few hundred exactly.

    z = basis (h − mean)
    coarse scores of all rows          int4, hot rows at a higher rank      2 to 4 % of the head's bytes
      └─ the best `n_candidates`       int8, a few hundred coordinates      ½ to 1 %
           └─ the best `n_exact`       exact rows of W                      ¼ %      ∪ ids that always join
                └─ logits of the shortlist: what is proposed from

The proposal is the softmax over the shortlist's exact logits, so nothing approximate enters the law; the preview only
chooses which tokens the law covers, anew at each position.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from outlex.errors import InputError, MismatchError
from outlex.heads.linear import LinearHead, linear
from outlex.heads.preview_fit import PreviewFactor
from outlex.heads.quantized_rows import QuantizedRows, RowScorer, rotation_bytes
from outlex.heads.request_tokens import RequestTokens, check_looks
from outlex.proposals.base import DraftScores
from outlex.vocab.shortlist import Shortlist
from outlex.vocab.token_map import TokenMap

if TYPE_CHECKING:
    from outlex.heads.numba_rows import RowChooser

__all__ = ["PreviewHead"]

_SAMPLED = 16  # every so many scores tell where the threshold of the candidates lies


class PreviewHead:
    """A head whose columns are chosen at each position.

    Args:
        linear: the drafter's whole head.
        factor: fitted to it.
        n_target: rows of the target's head; rows beyond are not even scored.
        n_candidates: rows that the second stage scores, about.
        n_exact: rows that are scored exactly.
        always: tokens that are on every shortlist: static ones, and those of the request.
        top_m, prompt_logits: how the request's tokens are found, see `InContextHead`; without effect without `always`.
        name: for reports.

    Raises:
        InputError: counts out of range.
        MismatchError: the factor is of another head.
    """

    def __init__(
        self,
        linear: LinearHead,
        factor: PreviewFactor,
        *,
        n_target: int,
        n_candidates: int = 8192,
        n_exact: int = 256,
        always: RequestTokens | None = None,
        top_m: int = 8,
        prompt_logits: int = 256,
        name: str = "preview",
    ) -> None:
        n_rows = min(linear.n_rows, n_target)
        if (factor.n_rows, factor.hidden_size) != tuple(linear.weight.shape):
            raise MismatchError(
                "The preview was fitted to another head",
                got=f"{linear.n_rows} rows × {linear.weight.shape[1]}",
                expected=f"{factor.n_rows} rows × {factor.hidden_size}",
                next_step="load the drafter it was fitted for, or fit it again with `outlex fit-head`",
            )
        n_always = 0 if always is None else always.n_static + always.capacity
        # tokens that always join are no candidates, and with all of them there the others must still be enough
        if not (1 <= n_exact <= n_candidates <= n_rows and n_exact + n_always <= n_rows):
            raise InputError(
                "These shortlists cannot be made",
                got=f"{n_exact} exact rows of {n_candidates} candidates, besides {n_always} that are always there",
                expected=f"1 <= exact rows <= candidates <= {n_rows}, and room for those that are always there",
                next_step="choose other counts",
            )
        if always is not None:
            check_looks(top_m=top_m, prompt_logits=prompt_logits, n_target=n_target, name="preview")
        device = linear.weight.device
        self.linear = linear
        self.name = name
        self._n_target = n_target
        self._n_candidates = n_candidates
        self._n_exact = n_exact
        self.follows_request = always is not None
        self.top_m = top_m
        self.prompt_logits = prompt_logits if self.follows_request and top_m else 0
        self._always = always
        self._is_always = torch.zeros(linear.n_rows, dtype=torch.bool, device=device)
        known = factor.order < n_target
        coarse, fine = _of_target(factor.coarse, known), [] if factor.fine is None else _of_target([factor.fine], known)
        self._mean = factor.mean.to(device)
        self._basis = factor.basis.to(device)
        self._order = factor.order[known].to(device)
        self._chooser: RowChooser | None = None
        compiled = None
        if (
            device.type == "cpu"
            and fine
            and fine[0].storage == "int8"
            and {rows.storage for rows in coarse} == {"int4"}
        ):
            compiled = _compiled_chooser()
        if compiled is not None:
            self._chooser = compiled(
                mean=self._mean,
                basis=self._basis,
                order=self._order,
                coarse=coarse,
                fine=fine[0],
                n_candidates=n_candidates,
                weight=linear.weight if linear.bias is None else None,  # the kernel knows no bias
            )
        else:
            self._coarse = tuple((rows.rank, RowScorer(rows, device)) for rows in coarse)
            self._fine = (fine[0].rank, RowScorer(fine[0], device)) if fine else None
        ids_bytes = self._order.itemsize * (n_candidates if fine else n_exact)  # which tokens the rows stand for
        self._preview_bytes = (
            self._mean.nbytes
            + self._basis.nbytes
            + sum(rotation_bytes(rows.rank, rows.storage) + rows.n_rows * rows.row_bytes for rows in coarse)
            + sum(n_candidates * rows.row_bytes for rows in fine)
            + ids_bytes
        )

    @property
    def bytes_per_step(self) -> int:
        """Basis, first stage, candidates of the second stage, and exact rows with those that are always there now."""
        n_exact = self._n_exact + (0 if self._always is None else self._always.n_used)
        return self._preview_bytes + n_exact * self.linear.n_bytes // self.linear.n_rows

    def begin(self, prompt_ids: list[int]) -> None:
        if self._always is not None:
            self._always.begin(prompt_ids)
            self._mark()

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        if self.follows_request:
            self.observe_top(verified_ids, target_logits.topk(self.top_m, dim=-1).indices)

    def observe_top(self, verified_ids: list[int], top_ids: Tensor) -> None:
        if self._always is not None:
            self._always.join_observed(verified_ids, top_ids)
            self._mark()

    def _mark(self) -> None:
        if self._always is not None:
            self._is_always.zero_()
            self._is_always[self._always.token_map.draft_to_target] = True

    def score(self, hidden: Tensor) -> DraftScores:
        if hidden.shape[0] == 1:
            ids, logits = next(self._shortlists(hidden))
            return DraftScores(logits=logits, token_map=Shortlist(ids, n_target=self._n_target), hidden=hidden)
        dense = hidden.new_full((hidden.shape[0], self._n_target), -torch.inf)
        for i, (ids, logits) in enumerate(self._shortlists(hidden)):
            dense[i : i + 1].index_copy_(1, ids, logits)
        identity = TokenMap.identity(self._n_target, self._n_target).to(hidden.device)
        return DraftScores(logits=dense, token_map=identity, hidden=hidden)

    def _shortlists(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """At each position ids, int64 [k], and their logits [1, k]: hidden [n, d]."""
        if self._chooser is not None:
            always = None if self._always is None else self._always.token_map.draft_to_target
            left_out = None if self._always is None else self._is_always
            for row in torch.split(hidden, 1):
                ids, products = self._chooser.shortlist(row, self._n_exact, given=always, left_out=left_out)
                if products is None or hidden.dtype != torch.bfloat16:
                    yield ids, self.linear.rows(ids).logits(row)
                else:
                    yield ids, self.linear.finished(products.to(torch.bfloat16))
            return
        z = linear((hidden.float() - self._mean).to(torch.bfloat16), self._basis).float()
        coarse = torch.cat([scorer.scores(z[:, :rank]) for rank, scorer in self._coarse], -1)
        for row, own_coarse, own_z in zip(*(torch.split(one, 1) for one in (hidden, coarse, z)), strict=True):
            ids = self._shortlist(own_coarse, own_z)
            yield ids, self.linear.rows(ids).logits(row)

    def _shortlist(self, coarse: Tensor, z: Tensor) -> Tensor:
        """Ids of the best `n_exact` rows and of those that are always there: coarse [1, n_rows], z [1, rank]."""
        rows = self._candidates(coarse[0])
        ids = self._order.index_select(0, rows)
        scores = coarse[0].index_select(0, rows) if self._fine is None else self._fine_scores(rows, z)
        if self._always is None:
            return ids.index_select(0, scores.topk(self._n_exact, sorted=False).indices)
        # theirs are taken out, so that no token is on the list twice and the others have all places
        scores = scores.masked_fill(self._is_always.index_select(0, ids), -torch.inf)
        best = ids.index_select(0, scores.topk(self._n_exact, sorted=False).indices)
        return torch.cat([self._always.token_map.draft_to_target, best])

    def _candidates(self, coarse: Tensor) -> Tensor:
        """Rows of about `n_candidates` best coarse scores; enough of them for the shortlist.

        A threshold from a sample and one pass are quicker than selecting exactly so many, and the number does not
        matter: these are candidates.
        """
        n_needed = self._n_exact + (0 if self._always is None else self._always.n_used)
        if self._fine is None:
            return coarse.topk(n_needed, sorted=False).indices
        if coarse.device.type != "cpu":
            # how many rows reach a threshold is known on the device, and the host would have to wait for it at every
            # step: exactly `n_candidates` of them, so that all sizes are fixed
            return coarse.topk(max(self._n_candidates, n_needed), sorted=False).indices
        sample = coarse[::_SAMPLED]
        n_above = max(1, self._n_candidates // _SAMPLED)
        threshold = sample.kthvalue(sample.shape[0] - n_above + 1).values
        # numpy finds the few that are set in a fifth of the time that torch's nonzero takes
        rows = torch.from_numpy(np.flatnonzero((coarse >= threshold).numpy()))
        if rows.shape[0] < n_needed:
            rows = coarse.topk(max(self._n_candidates, n_needed), sorted=False).indices
        return rows

    def _fine_scores(self, rows: Tensor, z: Tensor) -> Tensor:
        assert self._fine is not None
        rank, scorer = self._fine
        return scorer.scores_of(rows, z[:, :rank])[0]


def _of_target(stages: Sequence[QuantizedRows], known: Tensor) -> list[QuantizedRows]:
    """The stages without rows that the target does not have; `known` is bool over the rows of all stages."""
    if bool(known.all()):
        return list(stages)
    parts = [part.nonzero().squeeze(-1) for part in torch.split(known, [rows.n_rows for rows in stages])]
    return [rows.select(part) for rows, part in zip(stages, parts, strict=True) if len(part)]


@lru_cache(maxsize=1)
def _compiled_chooser() -> type[RowChooser] | None:
    """What chooses rows in compiled code; None without Numba, or where it does not run."""
    if find_spec("numba") is None:
        return None
    n_threads = torch.get_num_threads()
    try:
        from outlex.heads import numba_rows

        numba_rows.try_it()
    except Exception as error:  # no folder for compiled code, no thread pool, a version that does not fit numpy's
        warnings.warn(
            f"Numba does not run here; previews take about twice as long without it. {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return None
    finally:
        # Numba starts OpenMP threads, and they are those of torch, whose number is then changed
        torch.set_num_threads(n_threads)
    return numba_rows.RowChooser
