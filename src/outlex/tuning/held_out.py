"""Trials on prompts that nothing was fitted to or chosen on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from outlex.forecast.candidates import Candidate
from outlex.forecast.overlaps import overlap_table
from outlex.metrics import Estimate, clustered_ratio
from outlex.proposals import Tli
from outlex.tuning.positions import TOKENS_PER_PASS

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead
    from outlex.tuning.result import Trial

__all__ = ["by_prompt", "compared"]

Floats = npt.NDArray[np.float64]


def compared(
    trials: Sequence[Trial],
    held_out: Mapping[float, TraceSet],
    head: DraftHead,
    *,
    target_head: LinearHead,
    drafter_head: LinearHead,
    on_progress: Callable[[int, int], None],
) -> list[Trial]:
    """The trials with their acceptance on the held-out prompts."""
    # a mixture with λ = 0 everywhere is TLI: computing it again would only cost time
    live = [i for i, trial in enumerate(trials) if trial.weights is None or any(map(any, trial.weights))]
    candidates = [
        Candidate(name=trials[i].label, n_draft=0, head=head, proposal=trials[i].proposal or Tli()) for i in live
    ]
    betas: list[dict[float, Floats]] = [{} for _ in trials]
    for one in {id(one): one for one in held_out.values()}.values():
        temperatures = [t for t, other in held_out.items() if other is one]
        found = overlap_table(
            one,
            target_head=target_head,
            drafter_head=drafter_head,
            candidates=candidates,
            temperatures=temperatures,
            proposal=None,
            tokens_per_pass=TOKENS_PER_PASS,
            on_progress=on_progress,
        )
        for temperature in temperatures:
            for i, beta in enumerate(betas):
                beta[temperature] = found.cells[live.index(i) if i in live else 0, temperature].beta
    done = []
    for trial, beta in zip(trials, betas, strict=True):
        acceptance = {t: by_prompt(own, held_out[t]) for t, own in beta.items()}
        gain = {t: by_prompt(own - betas[0][t], held_out[t]) for t, own in beta.items()}
        done.append(replace(trial, betas=beta, acceptance=acceptance, gain=gain))
    return done


def by_prompt(values: Floats, traces: TraceSet, *, kept: npt.NDArray[np.bool_] | None = None) -> Estimate:
    """Mean over the positions of traces, with an interval over their prompts.

    Args:
        values: float64 [n_positions].
        traces: of these positions.
        kept: bool [n_positions], those that count; None counts all.
    """
    counted = np.ones(len(values)) if kept is None else kept.astype(np.float64)
    lengths = np.array([prompt.n_positions for prompt in traces.prompts])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    tops, counts = (np.add.reduceat(one, starts).tolist() for one in (values * counted, counted))
    return clustered_ratio(tops, counts)
