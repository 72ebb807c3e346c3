"""Acceptance against pruning: every sampler at every size, per domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from outlex.experiments.result import interval
from outlex.forecast.candidates import Candidate
from outlex.forecast.overlaps import overlap_table
from outlex.tuning.held_out import by_prompt
from outlex.tuning.positions import TOKENS_PER_PASS

if TYPE_CHECKING:
    import numpy.typing as npt

    from outlex.experiments.setup import Setup
    from outlex.tuning.result import Comparison

__all__ = ["COLUMNS", "QUESTION", "comparison_rows", "notes_of", "run", "sampler_rows"]

QUESTION = "How much is accepted as rows are pruned, with each sampler?"
COLUMNS = ("pruned", "n_draft", "sampler", "chosen", "alpha", "gain", "ceiling", "untrimmed")


def run(setup: Setup) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes: one row a size, sampler and domain; `domain` is "all" for all of them."""
    held_out = setup.parts[2]
    whole = overlap_table(
        held_out,
        target_head=setup.target_head,
        drafter_head=setup.drafter_head,
        shared=setup.shared,
        candidates=[
            Candidate(name="untrimmed", n_draft=setup.drafter_head.n_rows),
            *(Candidate(name=str(n), ids=setup.order[:n].cpu(), n_draft=n) for n in setup.sizes),
        ],
        temperatures=[setup.temperature],
        proposal=None,
        tokens_per_pass=TOKENS_PER_PASS,
        on_progress=lambda n, total: setup.on_progress(n, total, "the untrimmed head"),
    )
    rows = []
    for i, size in enumerate(setup.sizes, start=1):
        found = setup.compared(setup.order[:size])
        own = {
            "n_draft": size,
            "pruned": 1 - size / setup.n_shared,
        }
        per_position = {
            "untrimmed": whole.cells[0, setup.temperature].beta,
            "ceiling": 1 - whole.cells[i, setup.temperature].oov_mass,
        }
        rows += comparison_rows(found, setup.temperature, common=own, per_position=per_position)
    return rows, notes_of(rows)


def comparison_rows(
    found: Comparison, temperature: float, *, common: dict[str, Any], per_position: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One row a domain and sampler.

    Args:
        found: what was compared.
        temperature: of it.
        common: entries of every row.
        per_position: name -> float64 [n_positions], whose means become entries.
    """
    traces = found.held_out[temperature]
    index = traces.prompt_index.to(torch.int64)
    rows = []
    for domain in ("all", *(traces.domains if len(traces.domains) > 1 else ())):
        chosen = torch.tensor([domain in ("all", prompt.domain) for prompt in traces.prompts])
        kept = chosen[index].numpy()
        means = {name: float(np.mean(values[kept])) for name, values in (per_position or {}).items()}
        rows += sampler_rows(found, temperature, kept, common={**common, "domain": domain}, extra=means)
    return rows


def sampler_rows(
    found: Comparison,
    temperature: float,
    kept: npt.NDArray[np.bool_],
    *,
    common: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """One row a sampler.

    Args:
        found: what was compared.
        temperature: of it.
        kept: bool [n_positions], the positions that count.
        common, extra: entries of every row, the first ones and the last ones.
    """
    traces, base = found.held_out[temperature], found.trials[0].betas[temperature]
    return [
        {
            **common,
            "sampler": trial.label,
            "weights": trial.weight_rows,
            "chosen": trial is found.chosen,
            "alpha": interval(by_prompt(trial.betas[temperature], traces, kept=kept)),
            "gain": interval(by_prompt(trial.betas[temperature] - base, traces, kept=kept)),
            **(extra or {}),
        }
        for trial in found.trials
    ]


def notes_of(rows: list[dict[str, Any]]) -> list[str]:
    """What the chosen samplers do against TLI, and who else does better."""
    mixtures = [row for row in rows if row["chosen"]]
    worst = min(mixtures, key=lambda row: row["gain"][0])
    winners = [row for row in rows if row["gain"][1] > 0]
    notes = [
        f"The chosen sampler's smallest difference to TLI in any cell is {worst['gain'][0]:+.5f}"
        f" ({worst['sampler']}, {worst['domain']})."
    ]
    if winners:
        best = max(winners, key=lambda row: row["gain"][0])
        notes.append(
            f"{len(winners)} of {len(rows)} cells lie above TLI with 95 % confidence each (one in forty would by"
            f" chance); the largest gain is {best['gain'][0]:+.5f} ({best['sampler']}, {best['domain']})."
        )
    else:
        notes.append(f"No sampler lies above TLI with 95 % confidence in any of {len(rows)} cells.")
    return notes
