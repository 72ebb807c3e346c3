"""Skewed and adversarial settings: foreign domains, rare text, and synthetic pairs of known Zipf exponent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from outlex.errors import InputError
from outlex.experiments.pruning import comparison_rows, notes_of, sampler_rows
from outlex.tuning.settings import TuneSettings, split_prompts

if TYPE_CHECKING:
    from outlex.experiments.setup import Setup
    from outlex.tuning.result import Comparison

__all__ = ["COLUMNS", "QUESTION", "run"]

QUESTION = "What happens where calibration and use differ, and where text is rare or flat?"
COLUMNS = ("setting", "n_draft", "sampler", "chosen", "alpha", "gain")
_EXPONENTS = (0.5, 1.0, 1.5, 2.0)
_N_ZIPF, _HOT_ZIPF = 4096, 256
_FEWEST = 12


def run(setup: Setup) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes."""
    rows: list[dict[str, Any]] = []
    for size in setup.sizes:
        ids = setup.order[:size]
        rows += _rare_rows(setup.compared(ids), setup, size)
        for name in setup.traces.domains:
            rows += _foreign_rows(setup, name, size)
    for exponent in _EXPONENTS:
        rows += _zipf_rows(setup, exponent)
    return rows, [
        *notes_of(rows),
        "foreign: ranked, fitted and calibrated on the prompts of one domain, compared on held-out ones of the others.",
        "rare text: held-out positions whose token is not in the draft vocabulary, and those where most of the target's"
        " mass is outside; they are chosen by the text, so they say where it hurts, not what is lost on average.",
    ]


def _rare_rows(found: Comparison, setup: Setup, size: int) -> list[dict[str, Any]]:
    traces = setup.parts[2]
    is_hot = torch.zeros(setup.target_head.n_rows, dtype=torch.bool)
    is_hot[setup.order[:size].cpu()] = True
    kept = (~is_hot[traces.token_ids]).numpy()
    if not kept.any():
        return []
    common = {"setting": "rare text", "n_draft": size, "domain": "all", "n": int(kept.sum())}
    return sampler_rows(found, setup.temperature, kept, common=common)


def _foreign_rows(setup: Setup, name: str, size: int) -> list[dict[str, Any]]:
    """Calibrated on one domain alone; none where it is the only one, or too small to split."""
    prompts = setup.traces.prompts
    own = [i for i, prompt in enumerate(prompts) if prompt.domain == name]
    elsewhere = setup.parts[2]
    others = [i for i, prompt in enumerate(elsewhere.prompts) if prompt.domain != name]
    if len(own) < _FEWEST or not others:
        return []
    fit, calibrate, rest = split_prompts(setup.traces.select(own), TuneSettings(seed=setup.seed))
    calibrate = setup.traces.select(
        i for i in own if prompts[i].id in {p.id for part in (calibrate, rest) for p in part.prompts}
    )
    parts = (fit, calibrate, elsewhere.select(others))
    order = setup.order_of(fit).to(setup.order.device)
    found = setup.compared(order[:size], parts=parts)
    common = {"setting": f"foreign: calibrated on {name}", "n_draft": size}
    return [row for row in comparison_rows(found, setup.temperature, common=common) if row["domain"] == "all"]


def _zipf_rows(setup: Setup, exponent: float) -> list[dict[str, Any]]:
    """A synthetic pair whose unigram law is rank^−exponent; the drafter sees the target's state through noise."""
    from outlex.experiments.synthetic import zipf_pair

    target, drafter, traces = zipf_pair(n=_N_ZIPF, exponent=exponent, seed=setup.seed)
    pair = replace(
        setup,
        target_head=target,
        drafter_head=drafter,
        traces=traces,
        translation=None,
        spellings=None,
        ranking=None,
        sizes=(_HOT_ZIPF,),
    )
    try:
        found = pair.compared(pair.order[:_HOT_ZIPF])
    except InputError as error:
        if setup.family == "rdk-exact":  # the one family that the width can forbid
            return []
        raise error
    common = {"setting": f"Zipf, exponent {exponent:g}", "n_draft": _HOT_ZIPF}
    return [row for row in comparison_rows(found, setup.temperature, common=common) if row["domain"] == "all"]
