"""Greedy drafting: the draft is the arg-max of q̃, and restoring cold mass can only matter where that moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.experiments.result import interval
from outlex.proposals import Restoring
from outlex.tuning.held_out import by_prompt

if TYPE_CHECKING:
    from outlex.experiments.setup import Setup

__all__ = ["COLUMNS", "QUESTION", "run"]

QUESTION = "What does a sampler change where the draft is its arg-max?"
COLUMNS = ("n_draft", "sampler", "arg-max moved", "alpha", "gain", "greedy target", "greedy gain")


def run(setup: Setup) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes: one row a size and sampler, for a target that is sampled and for one that is greedy."""
    rows: list[dict[str, Any]] = []
    traces = setup.parts[2]
    for size in setup.sizes:
        ids = setup.order[:size]
        samplers: dict[str, Restoring | None] = {trial.label: trial.proposal for trial in setup.compared(ids).trials}
        found: dict[str, list[Tensor]] = {name: [] for name in samplers}
        for scores, hot, p in setup.laws(ids, traces):
            best, before = p.argmax(-1), hot.dense().argmax(-1)
            for name, sampler in samplers.items():
                drawn = before
                if sampler is not None:
                    drawn = sampler.restore(hot, scores, setup.params).dense().argmax(-1)
                beta = p.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
                found[name].append(torch.stack([beta.double(), (drawn == best).double(), (drawn != before).double()]))
        of_tli = torch.cat(found["tli"], -1).cpu().numpy()
        for name, parts in found.items():
            beta, same, moved = torch.cat(parts, -1).cpu().numpy()
            rows.append(
                {
                    "n_draft": size,
                    "sampler": name,
                    "arg-max moved": float(moved.mean()),
                    "alpha": interval(by_prompt(beta, traces)),
                    "gain": interval(by_prompt(beta - of_tli[0], traces)),
                    "greedy target": interval(by_prompt(same, traces)),
                    "greedy gain": interval(by_prompt(same - of_tli[1], traces)),
                }
            )
    most = max(rows, key=lambda row: row["arg-max moved"])
    better = [row for row in rows if row["gain"][1] > 0 or row["greedy gain"][1] > 0]
    return rows, [
        f"The arg-max moves at most at {most['arg-max moved']:.1%} of the positions ({most['sampler']}).",
        f"{len(better)} of {len(rows)} cells lie above TLI with 95 % confidence.",
    ]
