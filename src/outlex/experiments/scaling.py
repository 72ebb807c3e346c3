"""RDK exact against first order: quality and time of a draft step as the vocabulary grows.

Quality and how both grow: the pair is cut down to its N most important tokens on both sides, and 1/16 of them are hot.
Step times: see `outlex.experiments.step_times`; the draft head stays as it is, and N goes up to 2^18.
"""

from __future__ import annotations

from math import isnan
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from outlex.affinity import Covariance, SparseDistributions
from outlex.decode.stopwatch import now
from outlex.experiments.step_times import step_rows
from outlex.proposals import DraftScores, RdkExact, RdkFirstOrder, Restoring, Tli
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import probabilities
from outlex.verify import overlap
from outlex.vocab.token_map import TokenMap

if TYPE_CHECKING:
    from outlex.experiments.setup import Setup

__all__ = ["COLUMNS", "QUESTION", "run", "slope"]

QUESTION = "What does the first order give up, and how do both grow?"
COLUMNS = ("part", "N", "n_draft", "T_Ω", "sampler", "alpha", "tli", "distance", "step_s", "of head")
_TEMPERATURES = (1e-2, 1e-4)
_LARGEST_EXACT = 1 << 16
_WIDEST = 1 << 18
_WIDE = 1 << 14  # below, a step is mostly the price of calling anything at all
_N_LAWS, _N_KEPT, _N_POSITIONS, _REPEATS = 512, 32, 64, 5


@torch.inference_mode()
def run(setup: Setup) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes. `distance` is the mean total variation between the two laws; `step_s` is a median."""
    fit, _, held_out = setup.parts
    widths = [1 << k for k in range(10, 30) if 1 << k < len(setup.order)] + [len(setup.order)]
    if len(setup.order) < 1 << 10:
        widths = [len(setup.order)]
    rows: list[dict[str, Any]] = []
    for i, n in enumerate(widths):
        setup.on_progress(i, len(widths), f"{n} tokens")
        ids = setup.order[:n]
        target, drafter = setup.target_head.rows(ids), setup.drafter_head.rows(setup.rows_of(ids))
        every = max(1, len(fit) // _N_LAWS)
        states = fit.target_hidden[::every][:_N_LAWS].to(ids.device, target.weight.dtype)
        kept = [
            probabilities(target.logits(block), setup.params).topk(min(_N_KEPT, n)) for block in torch.split(states, 64)
        ]
        laws = SparseDistributions(
            ids=torch.cat([one.indices for one in kept]), probs=torch.cat([one.values for one in kept]), width=n
        )
        token_map = TokenMap(torch.arange(max(1, n // 16)), n_draft=max(1, n // 16), n_target=n).to(ids.device)
        every = max(1, len(held_out) // _N_POSITIONS)
        hidden = held_out.drafter_hidden[::every][:_N_POSITIONS].to(ids.device, drafter.weight.dtype)
        scores = DraftScores(logits=drafter.logits(hidden)[:, : token_map.n_draft], token_map=token_map, hidden=hidden)
        own = held_out.target_hidden[::every][:_N_POSITIONS].to(ids.device, target.weight.dtype)
        p = probabilities(target.logits(own), setup.params)
        tli = float(overlap(p, Tli().law(scores, setup.params).dense()).mean())
        for temperature in _TEMPERATURES:
            samplers: dict[str, Restoring] = {
                "rdk-first-order": RdkFirstOrder(distributions=laws, temperature=temperature)
            }
            if n <= _LARGEST_EXACT:
                samplers["rdk-exact"] = RdkExact(affinity=Covariance(distributions=laws), temperature=temperature)
            dense = {name: sampler.law(scores, setup.params).dense() for name, sampler in samplers.items()}
            distance = None
            if len(dense) == 2:
                distance = float((dense["rdk-exact"] - dense["rdk-first-order"]).abs().sum(-1).mean() / 2)
            for name, sampler in samplers.items():
                rows.append(
                    {
                        "part": "quality",
                        "N": n,
                        "n_draft": token_map.n_draft,
                        "T_Ω": temperature,
                        "sampler": name,
                        "alpha": float(overlap(p, dense[name]).mean()),
                        "tli": tli,
                        "distance": distance,
                        "step_s": _step_s(sampler, scores, setup),
                        "of head": None,
                    }
                )
    # 2^18 is beyond any pair's tokens; a toy pair stays small
    widths = [*widths, _WIDEST] if widths[-1] > _WIDEST // 16 else widths
    timed = step_rows(setup, widths)
    return [*rows, *timed], [*_notes(rows), *_step_notes(timed)]


def slope(rows: list[dict[str, Any]], sampler: str, *, at_least: int = 0) -> float:
    """Of log seconds against log N over widths of `at_least`, least squares; NaN below two widths."""
    own = [(row["N"], row["step_s"]) for row in rows if row["sampler"] == sampler and row["N"] >= at_least]
    if len({n for n, _ in own}) < 2:
        return float("nan")
    x, y = np.log(np.array(own)).T
    return float(np.polyfit(x, y, 1)[0])


def _step_s(sampler: Restoring, scores: DraftScores, setup: Setup) -> float:
    """Seconds to draw one draft token."""
    device = scores.logits.device
    randomness = GeneratorRandomness(seeded_generator(0, device))
    one = DraftScores(logits=scores.logits[:1], token_map=scores.token_map, hidden=scores.hidden[:1])
    seconds = []
    for _ in range(_REPEATS + 1):
        start = now(device)
        sampler.law(one, setup.params).sample(randomness)
        seconds.append(now(device) - start)
    return median(seconds[1:])


def _step_notes(rows: list[dict[str, Any]]) -> list[str]:
    """How step times grow, from 2^14 tokens on where there are so many, and what share of the whole head they are."""
    notes = []
    wide = [row for row in rows if row["N"] >= _WIDE]
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        own = [row for row in rows if row["sampler"] == sampler]
        growth = slope(wide or rows, sampler)
        notes.append(
            f"{sampler}: a draft step takes {own[-1]['step_s'] * 1e3:.2f} ms at {own[-1]['N']} tokens,"
            f" {own[-1]['of head']:.1%} of the whole head, and grows as N^{growth:.2f}."
        )
    return notes


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    notes = []
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        note, late = f"{sampler}: time grows as N^{slope(rows, sampler):.2f}", slope(rows, sampler, at_least=_WIDE)
        notes.append(f"{note} over all N" + (f", as N^{late:.2f} from 2^14 tokens on." if not isnan(late) else "."))
    above = [row for row in rows if row["alpha"] > row["tli"]]
    notes.append(f"{len(above)} of {len(rows)} cells lie above TLI, without an interval.")
    return notes
