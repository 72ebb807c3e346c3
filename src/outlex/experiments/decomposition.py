"""Why a sampler wins or loses: what it gains on cold tokens, and what it gives up on hot ones, per position.

    β − β_TLI = Σ_C min(p, q̃) − Σ_H [min(p, q') − min(p, q̃)]
                gain on cold      renormalisation bonus lost

TLI hands the drafter's cold mass to hot tokens by renormalising; where p exceeds the drafter's law there, that is a
bonus, and whoever gives mass back to cold tokens takes it from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.experiments.result import interval
from outlex.proposals import Restoring
from outlex.tuning.held_out import by_prompt

if TYPE_CHECKING:
    from outlex.experiments.setup import Setup

__all__ = ["COLUMNS", "QUESTION", "run", "terms"]

QUESTION = "What does each sampler gain on cold tokens, and what does it lose on hot ones?"
COLUMNS = ("n_draft", "positions", "sampler", "gain on cold", "bonus lost", "gain", "share gaining", "moved")
_BANDS = (("all", 0.0, 1.01), ("oov mass < 0.1", 0.0, 0.1), ("0.1 to 0.5", 0.1, 0.5), ("oov mass > 0.5", 0.5, 1.01))


def run(setup: Setup) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes: one row a size, sampler and range of the target's mass outside."""
    rows: list[dict[str, Any]] = []
    traces = setup.parts[2]
    for size in setup.sizes:
        ids = setup.order[:size]
        trials = {trial.label: trial.proposal for trial in setup.compared(ids).trials if trial.proposal is not None}
        samplers: dict[str, Restoring | str] = {
            **trials,
            "vanilla": "vanilla",
            "true cold mass, drafter's law": "oracle",
        }
        found: dict[str, list[Tensor]] = {name: [] for name in samplers}
        outside = []
        for scores, hot, p in setup.laws(ids, traces):
            q = hot.dense()
            is_hot = torch.zeros(p.shape[-1], dtype=torch.bool, device=p.device).index_fill(0, ids, True)
            outside.append((1 - p[:, is_hot].sum(-1, dtype=torch.float64)).clamp_min(0).cpu())
            whole = setup.whole_law(scores.hidden)
            for name, sampler in samplers.items():
                if sampler == "vanilla":  # the drafter's whole law, what it says of cold tokens wasted
                    law = whole.masked_fill(~is_hot, 0.0)
                elif sampler == "oracle":  # nothing is restored better than by the rows that were pruned
                    law = whole
                else:
                    assert isinstance(sampler, Restoring)
                    law = sampler.restore(hot, scores, setup.params).dense()
                found[name].append(terms(p, q, law, is_hot).cpu())
        mass = torch.cat(outside).numpy()
        for band, low, high in _BANDS:
            kept = (mass >= low) & (mass < high)
            if not kept.any():
                continue
            for name, parts in found.items():
                gained, lost, moved = torch.cat(parts, -1).numpy()
                gain = gained - lost
                rows.append(
                    {
                        "n_draft": size,
                        "positions": band,
                        "n": int(kept.sum()),
                        "sampler": name,
                        "gain on cold": interval(by_prompt(gained, traces, kept=kept)),
                        "bonus lost": interval(by_prompt(lost, traces, kept=kept)),
                        "gain": interval(by_prompt(gain, traces, kept=kept)),
                        "share gaining": float((gain[kept] > 1e-6).mean()),
                        "moved": float(moved[kept].mean()),
                    }
                )
    return rows, _notes(rows)


def terms(p: Tensor, q: Tensor, law: Tensor, is_hot: Tensor) -> Tensor:
    """Gain on cold tokens, renormalisation bonus lost, mass on cold tokens: float64 [3, n].

    Args:
        p, q, law: of n positions [n, n_target]; q is q', law is q̃.
        is_hot: bool [n_target].
    """
    shared = torch.minimum(p, law)
    cold = shared.masked_fill(is_hot, 0.0).sum(-1, dtype=torch.float64)
    before = torch.minimum(p, q).sum(-1, dtype=torch.float64)
    hot = shared.masked_fill(~is_hot, 0.0).sum(-1, dtype=torch.float64)
    return torch.stack([cold, before - hot, law.masked_fill(is_hot, 0.0).sum(-1, dtype=torch.float64)])


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    notes = []
    for size in dict.fromkeys(row["n_draft"] for row in rows):
        own = {row["sampler"]: row for row in rows if row["n_draft"] == size and row["positions"] == "all"}
        bonus = -own["vanilla"]["gain"][0]
        oracle = own["true cold mass, drafter's law"]["gain"][0]
        notes.append(
            f"{size} rows: renormalising is worth {bonus:+.4f}, the pruned rows themselves would give {oracle:+.4f}:"
            " no proposal that knows less than they do can be expected to gain more."
        )
    return notes
