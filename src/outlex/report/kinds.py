"""Which results there are, how each is recognised, and what makes its section.

Files with a `kind` say what they are; what commands print with `--json`, and what the scripts of `benchmarks/` write,
is recognised by its keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outlex.report.figure import Section
from outlex.report.sections import (
    bench,
    experiment,
    forecast,
    generation,
    heads,
    mechanism,
    rankings,
    samplers,
    vocabulary,
)
from outlex.report.source import Source

__all__ = ["KINDS", "Kind"]

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of result.

    Attributes:
        name: in words, for messages.
        matches: whether a JSON object is one.
        section: makes its section; whatever is missing or wrong raises.
    """

    name: str
    matches: Callable[[Body], bool]
    section: Callable[[Source], Section]


def _keys(*names: str) -> Callable[[Body], bool]:
    return lambda body: "kind" not in body and set(names) <= body.keys()


def _experiment(name: str) -> Callable[[Body], bool]:
    return lambda body: body.get("kind") == "outlex-experiment" and body.get("name") == name


def _rows(*names: str) -> Callable[[Body], bool]:
    """A file of `benchmarks/`: rows with these entries."""

    def matches(body: Body) -> bool:
        rows = body.get("rows")
        first = rows[0] if isinstance(rows, list) and rows else None
        return "kind" not in body and "environment" in body and isinstance(first, dict) and set(names) <= first.keys()

    return matches


# Shown in this order.
KINDS: tuple[Kind, ...] = (
    Kind(name="a benchmark", matches=lambda body: body.get("kind") == "outlex-bench", section=bench.bench),
    Kind(name="a demo", matches=_keys("bench", "n_draft", "prompts"), section=bench.demo),
    Kind(
        name="a generation", matches=lambda body: body.get("kind") == "outlex-generation", section=generation.generation
    ),
    Kind(name="a forecast", matches=_keys("cells", "verdicts", "proposal"), section=forecast.forecast),
    Kind(
        name="a check of forecasts",
        matches=_keys("benchmarks", "acceptance", "speed"),
        section=forecast.forecast_check,
    ),
    Kind(name="a fit", matches=_keys("chosen", "reason", "trials"), section=vocabulary.fit),
    *(
        Kind(name=f"the experiment {name}", matches=_experiment(name), section=section)
        for name, section in {
            "pruning": samplers.pruning,
            "skewed": samplers.skewed,
            "priors": samplers.priors,
            "decomposition": mechanism.decomposition,
            "scaling": mechanism.scaling,
            "cascade": mechanism.cascade,
            "greedy": samplers.greedy,
        }.items()
    ),
    Kind(
        name="an experiment",
        matches=lambda body: body.get("kind") == "outlex-experiment",
        section=experiment.experiment,
    ),
    Kind(name="the acceptance of heads", matches=_rows("head", "kept", "head_bytes"), section=heads.head_acceptance),
    Kind(name="the times of heads", matches=_rows("head", "milliseconds"), section=heads.head_times),
    Kind(
        name="the acceptance of rankings",
        matches=_rows("ranking", "share", "alpha"),
        section=rankings.ranking_acceptance,
    ),
    Kind(name="the coverage of rankings", matches=_rows("ranking", "share", "coverage"), section=rankings.coverage),
    Kind(name="a trim", matches=_keys("n_draft", "n_full", "domains", "dropped"), section=vocabulary.trim),
    Kind(name="token counts", matches=_keys("n_tokens", "n_documents", "domains"), section=vocabulary.counts),
    Kind(name="the speed of counting", matches=_keys("speed", "memory", "tokenizer"), section=heads.counting_speed),
    Kind(name="recorded rows", matches=_rows(), section=experiment.recorded),
)
