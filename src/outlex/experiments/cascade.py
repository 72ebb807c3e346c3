"""Cascades: the trimmed head drafts for the drafter's whole head, whose tokens the target verifies.

    D rows ──q̃──▶ verified by the whole head ──q──▶ verified by the target ──p──▶ text
           α₁ = Σ min(q, q̃)                 α₂ = Σ min(p, q)

The first stage is lossless for q, so the second sees tokens of exactly q: its acceptance is the untrimmed drafter's. A
token of q costs one block of the first stage divided by what it yields. Body and head are counted in bytes of weights;
verifying several tokens reads them once. Blocks yield what independent tokens of these acceptances would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from outlex.experiments.result import interval
from outlex.metrics import block_efficiency, expected_speedup
from outlex.tuning.held_out import by_prompt
from outlex.verify import overlap

if TYPE_CHECKING:
    from outlex.experiments.setup import Setup

__all__ = ["COLUMNS", "QUESTION", "run"]

QUESTION = "Does a trimmed head that drafts for the whole head pay?"
COLUMNS = (
    *("n_draft", "trimmed→whole", "whole→target", "trimmed→target"),
    *("inner γ", "γ", "bytes", "mbsu cascade", "mbsu whole", "mbsu trimmed"),
)
_INNER, _OUTER = (1, 2, 3, 4), (2, 4, 6)


def run(setup: Setup) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes: one row a size and γ, at the inner draft length that suits it best."""
    traces, header = setup.parts[2], setup.traces.header
    target_bytes = header.target.body_bytes + header.target.head_bytes
    body, whole = header.drafter.body_bytes, header.drafter.head_bytes
    rows = []
    for size in setup.sizes:
        ids = setup.order[:size]
        parts = []
        for scores, hot, p in setup.laws(ids, traces):
            q = setup.whole_law(scores.hidden)
            trimmed = hot.dense()
            parts.append(torch.stack([overlap(q, trimmed), overlap(p, q), overlap(p, trimmed)]).double().cpu())
        betas = torch.cat(parts, -1).numpy()
        inner, outer, direct = (by_prompt(np.ascontiguousarray(one), traces) for one in betas)
        small = size * whole / header.drafter.n_rows
        for draft_len in _OUTER:
            costs = {
                g: (g * (body + small) + body + whole) / block_efficiency(min(inner.value, 1.0), g) for g in _INNER
            }
            best = min(costs, key=lambda g: costs[g])
            speeds = {
                name: expected_speedup(block_efficiency(min(alpha, 1.0), draft_len), draft_len, cost / target_bytes)
                for name, alpha, cost in (
                    ("cascade", outer.value, costs[best]),
                    ("whole", outer.value, body + whole),
                    ("trimmed", direct.value, body + small),
                )
            }
            rows.append(
                {
                    "n_draft": size,
                    "trimmed→whole": interval(inner),
                    "whole→target": interval(outer),
                    "trimmed→target": interval(direct),
                    "inner γ": best,
                    "γ": draft_len,
                    "bytes": costs[best] / (body + whole),
                    **{f"mbsu {name}": speed for name, speed in speeds.items()},
                }
            )
    return rows, _notes(rows, body=body, whole=whole)


def _notes(rows: list[dict[str, Any]], *, body: int, whole: int) -> list[str]:
    pays = [row for row in rows if row["mbsu cascade"] > max(row["mbsu whole"], row["mbsu trimmed"])]
    return [
        f"The head is {whole / (body + whole):.1%} of the drafter's bytes: a first stage saves part of that and pays"
        " the body once a token more, because both stages share it.",
        f"The cascade beats both the whole and the trimmed drafter in {len(pays)} of {len(rows)} settings.",
        "trimmed→whole and so on: α of each stage. bytes: read for a token of the cascade, as a share of those of the"
        " whole drafter.",
    ]
