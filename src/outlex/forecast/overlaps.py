"""β at every traced position, for every candidate and temperature, in one pass over the hidden states.

The two heads are as wide as the vocabulary and are applied once a block of positions. Everything after that is shared
as far as it can be: the target's law by all candidates, the gathered columns by all candidates of a family. Heads that
choose their tokens themselves score the same hidden states, see `outlex.forecast.replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from outlex.errors import NumericalError
from outlex.forecast.candidates import Candidate, Family, families
from outlex.forecast.replay import Replay
from outlex.proposals.base import DraftScores, HotLaw, Proposal, ProposalLaw
from outlex.sampling import SamplingParams, probabilities
from outlex.verify import overlap

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead
    from outlex.vocab.token_map import TokenMap

__all__ = ["OverlapTable", "Overlaps", "overlap_table"]

Floats = npt.NDArray[np.float64]
_ROWS_AT_ONCE = 64  # a law of 64 rows of 151,936 in float32 has 39 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlaps:
    """One candidate at one temperature.

    Attributes:
        beta: Σ_v min(p_v, q̃_v), [n_positions] float64 like the next two.
        accept: min(1, q̃(x) / p(x)) for the token x of the text; 0 where p(x) is 0.
        oov_mass: Σ p_v over tokens without a row in the draft head, or that the head left out.
        n_draft: rows of the draft head; for a head that chooses, how many tokens it scores, mean over the positions.
        head_bytes: bytes of the head's weights that one step reads, mean over the positions.
    """

    beta: Floats
    accept: Floats
    oov_mass: Floats
    n_draft: float
    head_bytes: float


@dataclass(frozen=True, kw_only=True, eq=False)
class OverlapTable:
    """Everything that forecasts need of the two laws.

    Attributes:
        cells: (index of the candidate, temperature) -> its overlaps.
        mass_of_half: temperature -> Σ p over the positions of each half of the prompts, float64 [2, n_target]; 0 for
            tokens that a drafter with another tokenizer does not have.
        n_of_half: positions of each half.
    """

    cells: dict[tuple[int, float], Overlaps] = field(repr=False)
    mass_of_half: dict[float, Tensor] = field(repr=False)
    n_of_half: tuple[int, int]


@torch.inference_mode()
def overlap_table(
    traces: TraceSet,
    *,
    target_head: LinearHead,
    drafter_head: LinearHead,
    shared: TokenMap | None = None,
    candidates: Sequence[Candidate],
    temperatures: Sequence[float],
    proposal: Proposal | None,
    tokens_per_pass: int,
    on_progress: Callable[[int, int], None],
) -> OverlapTable:
    """Compute both laws at every position, and what candidates make of them.

    Args:
        traces: of the pair.
        target_head, drafter_head: of the pair, whole, on one device.
        shared: drafter rows to tokens of a target with another tokenizer; None for one tokenizer.
        candidates: what to compare.
        temperatures: of both laws.
        proposal: q ↦ q̃ of all candidates; None takes each one's own.
        tokens_per_pass: that heads which follow the request are shown at once.
        on_progress: called with the positions done and all positions.

    Raises:
        InputError: a head cannot be replayed on these traces.
        NumericalError: logits hold NaN or infinity.
    """
    device, dtype = target_head.weight.device, target_head.weight.dtype
    groups = families(candidates, n_target=target_head.n_rows, device=device, shared=shared)
    rows_of = [_rows_of(group, shared) for group in groups]
    replays: dict[DraftHead, Replay] = {}  # one a head, whoever shares it: replaying moves the head along
    for candidate in candidates:
        if candidate.head is not None and candidate.head not in replays:
            replays[candidate.head] = Replay(candidate.head, traces, tokens_per_pass=tokens_per_pass)
    laws = [proposal or candidate.proposal for candidate in candidates]
    n = len(traces)
    sums = {(i, t): np.empty((3, n)) for i in range(len(candidates)) for t in temperatures}
    half_of_row = (traces.prompt_index.to(torch.int64) % 2).to(torch.float32).to(device)
    masses = {t: torch.zeros(2, target_head.n_rows, dtype=torch.float64, device=device) for t in temperatures}
    for rows in traces.blocks(_ROWS_AT_ONCE):
        on_progress(rows.start, n)
        target_logits = target_head.logits(traces.target_hidden[rows].to(device, dtype))
        hidden = traces.drafter_hidden[rows].to(device, drafter_head.weight.dtype)
        scores = []
        if groups:
            logits = drafter_head.logits(hidden)
            scores = [_scores(group, own, logits, hidden) for group, own in zip(groups, rows_of, strict=True)]
        replayed = {head: list(replay.scores(rows, hidden, target_logits)) for head, replay in replays.items()}
        text = traces.token_ids[rows].to(device)
        odd = half_of_row[rows]
        halves = torch.stack([1 - odd, odd])
        for temperature in temperatures:
            params = SamplingParams(temperature=temperature)
            p = probabilities(target_logits, params)
            _check(p, "target")
            masses[temperature] += halves @ p  # float32 within a block, float64 across blocks
            for group, of_group in zip(groups, scores, strict=True):
                hot = None if group.order is None else p.index_select(-1, group.order)
                for (index, _), of_member in zip(group.members, of_group, strict=True):
                    n_draft = of_member.token_map.n_draft
                    columns = _columns(p, of_member) if hot is None else hot[:, :n_draft]
                    found = _judged(laws[index].law(of_member, params), p, columns, columns, text)
                    sums[index, temperature][:, rows] = found.cpu().numpy()
            for head, parts in replayed.items():
                sharing = [i for i, candidate in enumerate(candidates) if candidate.head is head]
                for own, part in parts:
                    columns = _columns(p[own], part)
                    left_in = columns.masked_fill(part.logits[:, : columns.shape[1]] == -torch.inf, 0.0)
                    for index in sharing:
                        found = _judged(laws[index].law(part, params), p[own], columns, left_in, text[own])
                        sums[index, temperature][:, rows][:, own] = found.cpu().numpy()
    on_progress(n, n)
    a_row = traces.header.drafter.head_bytes / traces.header.drafter.n_rows
    sizes = [
        (candidate.n_draft, candidate.n_draft * a_row)
        if candidate.head is None
        else (replays[candidate.head].mean_tokens, replays[candidate.head].mean_bytes)
        for candidate in candidates
    ]
    n_odd = int(half_of_row.sum())
    return OverlapTable(
        cells={
            key: Overlaps(beta=b, accept=a, oov_mass=o, n_draft=sizes[key[0]][0], head_bytes=sizes[key[0]][1])
            for key, (b, a, o) in sums.items()
        },
        mass_of_half={temperature: _within(mass, shared).cpu() for temperature, mass in masses.items()},
        n_of_half=(n - n_odd, n_odd),
    )


def _rows_of(group: Family, shared: TokenMap | None) -> Tensor | None:
    """Rows of the drafter's head in the family's order; None for all of them as they are."""
    if shared is None or group.order is None:
        return group.order
    return shared.to(group.order.device).to_draft(group.order)


def _scores(group: Family, rows: Tensor | None, logits: Tensor, hidden: Tensor) -> list[DraftScores]:
    columns = logits if rows is None else logits.index_select(-1, rows)
    return [
        DraftScores(logits=columns[:, : token_map.n_draft], token_map=token_map, hidden=hidden)
        for _, token_map in group.members
    ]


def _within(mass: Tensor, shared: TokenMap | None) -> Tensor:
    return mass if shared is None else mass.masked_fill(shared.target_to_draft.to(mass.device) < 0, 0.0)


def _columns(p: Tensor, scores: DraftScores) -> Tensor:
    """p at the ids of a head's columns, in their order; 0 where the target has no such token."""
    token_map = scores.token_map
    if token_map.is_identity:
        return p[:, : token_map.n_draft]
    ids = token_map.draft_to_target
    return p.index_select(-1, ids.clamp_min(0)).masked_fill(ids < 0, 0.0)


def _judged(law: ProposalLaw, p: Tensor, columns: Tensor, left_in: Tensor, text: Tensor) -> Tensor:
    """β, a and oov mass: float64 [3, n]. `left_in` is `columns` without the tokens that a position left out."""
    p_of_text = p.gather(-1, text.unsqueeze(-1)).squeeze(-1).double()
    q_of_text = law.prob_of(text).double()
    ratio = q_of_text / torch.where(p_of_text > 0, p_of_text, 1.0)
    accept = torch.where(p_of_text > 0, ratio.clamp_max(1.0), 0.0)
    beta = _beta(law, p, columns)
    _check(beta.unsqueeze(-1), "drafter")
    return torch.stack([beta, accept, (1 - left_in.sum(-1, dtype=torch.float64)).clamp_min(0)])


def _beta(law: ProposalLaw, p: Tensor, columns: Tensor) -> Tensor:
    """`overlap`, without the |V|-wide row where the law has mass on the draft columns alone.

    `columns` is p at the ids of the draft columns, in their order; an untrimmed head that is wider or narrower than the
    target's has the ids both know in front.
    """
    if isinstance(law, HotLaw):
        return overlap(columns, law.probs[:, : columns.shape[1]])
    return overlap(p, law.dense())


def _check(values: Tensor, role: str) -> None:
    # a broken row is NaN from end to end
    if bool(values[:, 0].isnan().any()):
        raise NumericalError(
            f"The {role}'s logits hold NaN or infinity",
            expected="finite logits",
            next_step="trace again in float32 (--dtype float32); if it stays, the checkpoint is damaged",
        )
