"""What proposals are fitted from: laws of both models at traced positions, kept sparse, and the rows that are cold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.affinity.distributions import SparseDistributions
from outlex.errors import InputError, NumericalError
from outlex.proposals.cold_rows import ColdRows
from outlex.proposals.tli import Tli
from outlex.sampling import SamplingParams, probabilities
from outlex.tuning.positions import scored_positions

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead
    from outlex.vocab.token_map import TokenMap

__all__ = ["Evidence", "gather_evidence"]

_N_KEPT = 256  # of the most probable tokens of a law: at temperature 1 they hold nearly all of its mass


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Of one draft head and one target.

    Attributes:
        n_target: rows of the target's head.
        target_ids, target_probs: [S, 256], most probable tokens of p, best first, and their probabilities.
        draft_ids, draft_probs: the same of q', as ids of the target.
        prompts: int64 [S], the prompt of each position.
        prior: float32 [n_target], mean p.
        draft_prior: float32 [n_target], mean q'.
        drafter_head: whole.
        shared: drafter rows to tokens of a target with another tokenizer; None for one tokenizer.
        cold_ids: int64, tokens that the draft head does not have: those it was trimmed of, and with another tokenizer
            those that the drafter never had.
        first_ids: int64 [n_draft], the target's token that each draft column begins with, with another tokenizer and
            columns that the target lacks; else None.
        spellings: bytes of each token, None for those that have none; None without a tokenizer.
    """

    n_target: int
    target_ids: Tensor = field(repr=False)
    target_probs: Tensor = field(repr=False)
    draft_ids: Tensor = field(repr=False)
    draft_probs: Tensor = field(repr=False)
    prompts: Tensor = field(repr=False)
    prior: Tensor = field(repr=False)
    draft_prior: Tensor = field(repr=False)
    drafter_head: LinearHead = field(repr=False)
    shared: TokenMap | None = field(default=None, repr=False)
    cold_ids: Tensor = field(repr=False)
    first_ids: Tensor | None = field(default=None, repr=False)
    spellings: Sequence[bytes | None] | None = field(default=None, repr=False)

    @property
    def n_draft(self) -> int:
        """Tokens that are not cold."""
        n_all = min(self.drafter_head.n_rows, self.n_target) if self.shared is None else self.n_target
        return n_all - len(self.cold_ids)

    @cached_property
    def pruned_ids(self) -> Tensor:
        """int64, cold tokens that have a row in the drafter's whole head."""
        if self.shared is None:
            return self.cold_ids
        return self.cold_ids[self.shared.to_draft(self.cold_ids) >= 0]

    def cold_rows(self, *, prior: Tensor | None) -> ColdRows:
        """Cold rows of the drafter's head; `prior` is how probable each token is, None for equal."""
        head, ids = self.drafter_head, self.pruned_ids
        rows = None if self.shared is None else self.shared.to_draft(ids)
        return ColdRows(weight=head.weight, bias=head.bias, scale=head.scale, ids=ids, rows_of=rows, prior=prior)

    def target_laws(self, *, n_laws: int, n_kept: int) -> SparseDistributions:
        """Evenly spaced positions' p."""
        return self._laws(self.target_ids, self.target_probs, n_laws, n_kept)

    def draft_laws(self, *, n_laws: int, n_kept: int) -> SparseDistributions:
        """q' at the same positions."""
        return self._laws(self.draft_ids, self.draft_probs, n_laws, n_kept)

    def sources(self, n: int) -> Tensor:
        """The n draft tokens that the drafter gives most mass to, best first: int64."""
        used = int((self.draft_prior > 0).sum())
        return self.draft_prior.topk(min(n, used)).indices

    def at(self, ids: Tensor, probs: Tensor, columns: Tensor) -> Tensor:
        """Sparse laws at some tokens: ids, probs [S, k], columns int64 [c] -> [S, c]; 0 where a law keeps nothing."""
        slot_of = torch.full((self.n_target,), len(columns), dtype=torch.int64, device=ids.device)
        slot_of[columns] = torch.arange(len(columns), device=ids.device)
        out = probs.new_zeros(ids.shape[0], len(columns) + 1)
        return out.scatter_add_(1, slot_of[ids], probs)[:, :-1]

    def _laws(self, ids: Tensor, probs: Tensor, n_laws: int, n_kept: int) -> SparseDistributions:
        step = -(-len(ids) // n_laws)
        return SparseDistributions(ids=ids[::step, :n_kept], probs=probs[::step, :n_kept], width=self.n_target)


@torch.inference_mode()
def gather_evidence(
    traces: Sequence[TraceSet],
    head: DraftHead,
    *,
    static_ids: Tensor,
    target_head: LinearHead,
    drafter_head: LinearHead,
    shared: TokenMap | None = None,
    first_ids: Tensor | None = None,
    temperature: float,
    spellings: Sequence[bytes | None] | None,
    on_progress: Callable[[int, int], None],
) -> Evidence:
    """Read all positions once.

    Args:
        traces: to fit to.
        head: the draft head.
        static_ids: int64, tokens that it always has.
        target_head, drafter_head: of the pair, whole.
        shared, first_ids: see `Evidence`.
        temperature: of both laws, above 0.
        spellings: see `Evidence`.
        on_progress: called with the positions done and all of this set.

    Raises:
        InputError: the draft head has every row: nothing is cold.
        NumericalError: logits hold NaN or infinity.
    """
    n_target, device = target_head.n_rows, target_head.weight.device
    n_tokens = min(n_target, drafter_head.n_rows) if shared is None else n_target
    is_hot = torch.zeros(n_tokens, dtype=torch.bool, device=device)
    is_hot[static_ids.to(device)] = True
    cold_ids = (~is_hot).nonzero().squeeze(-1)
    if not len(cold_ids):
        raise InputError(
            "No token is cold for this draft head",
            got=f"all {len(is_hot)} rows of the drafter's head",
            expected="fewer rows than the drafter's own head",
            next_step="decode with TLI: there is nothing to restore",
        )
    params, kept = SamplingParams(temperature=temperature), []
    totals = torch.zeros(2, n_target, dtype=torch.float64, device=device)
    n_before = 0
    for one in traces:
        for prompts, scores, logits in scored_positions(one, head, target_head=target_head, on_progress=on_progress):
            p, hot = probabilities(logits, params), Tli().law(scores, params)
            q = hot.dense()
            if bool(p[:, 0].isnan().any() | q[:, 0].isnan().any()):
                raise NumericalError(
                    "A proposal cannot be fitted: the logits hold NaN or infinity",
                    expected="finite logits",
                    next_step="trace again in float32 (--dtype float32)",
                )
            totals += torch.stack([p.sum(0, dtype=torch.float64), q.sum(0, dtype=torch.float64)])
            of_p, of_q = (law.topk(min(_N_KEPT, n_target), dim=-1) for law in (p, q))
            kept.append((of_p.indices, of_p.values, of_q.indices, of_q.values, prompts + n_before))
        n_before += len(one.prompts)
    target_ids, target_probs, draft_ids, draft_probs, prompts = (torch.cat(parts) for parts in zip(*kept, strict=True))
    prior, draft_prior = (totals / len(prompts)).float()
    return Evidence(
        n_target=n_target,
        target_ids=target_ids,
        target_probs=target_probs,
        draft_ids=draft_ids,
        draft_probs=draft_probs,
        prompts=prompts.to(device),
        prior=prior,
        draft_prior=draft_prior,
        drafter_head=drafter_head,
        shared=shared,
        cold_ids=cold_ids,
        first_ids=first_ids,
        spellings=spellings,
    )
