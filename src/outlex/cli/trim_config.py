"""What `outlex trim` was asked for, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.cli.options import Machine, check_other_prompts
from outlex.cli.request import ProposalName
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.selection.size import SizeGoal

__all__ = ["AUTO", "Objective", "RankName", "SearchName", "SizeSearch", "SpeedSearch", "TrimConfig", "parse_size"]

AUTO = "auto"
_DRAFT_LENS = (1, 2, 3, 4, 5, 6, 8)


class RankName(str, Enum):
    """What orders the tokens."""

    mixture = "mixture"
    counts = "counts"
    variance = "variance"


class Objective(str, Enum):
    """What R(k) saves."""

    flops = "flops"
    bytes = "bytes"
    latency = "latency"
    speed = "speed"


class SearchName(str, Enum):
    """How the best size is found."""

    exact = "exact"
    tpe = "tpe"


@dataclass(frozen=True, kw_only=True)
class SpeedSearch:
    """What a search for forecast speed needs.

    Attributes:
        traces: directories of `outlex trace`, of one pair.
        draft_lens, proposals: γ and q̃ to choose from.
        bench: result of `outlex bench` whose times are taken; None times both models on this machine.

    Raises:
        InputError: no traces, or something that is not there.
    """

    traces: tuple[Path, ...]
    draft_lens: tuple[int, ...] = _DRAFT_LENS
    proposals: tuple[ProposalName, ...] = tuple(ProposalName)
    bench: Path | None = None

    def __post_init__(self) -> None:
        if not self.traces:
            raise InputError(
                f"--objective {Objective.speed.value} forecasts on traces",
                got="no --traces",
                expected="a directory of 'outlex trace'",
                next_step="trace the pair with 'outlex trace', and give the directory as --traces",
            )
        for name, values in (("--draft-len", self.draft_lens), ("--proposal", self.proposals)):
            if len(set(values)) < len(values):
                raise InputError(f"{name} names a value twice", got=values, next_step="give each value once")


@dataclass(frozen=True, kw_only=True)
class SizeSearch:
    """What `--size auto` maximises.

    Attributes:
        goal: α and the limits.
        objective: what a smaller head saves.
        search: exact or TPE.
        seed: of TPE.
        speed: for the objective speed alone.
    """

    goal: SizeGoal
    objective: Objective
    search: SearchName
    seed: int
    speed: SpeedSearch | None = None


@dataclass(frozen=True, kw_only=True)
class TrimConfig:
    """One trim.

    Attributes:
        drafter: what `load_model` loads it by.
        tokens: sources, see `outlex.selection.sources.read_evidence`.
        report_on: sources of another split, whose coverage is reported.
        rank: what orders the tokens.
        size: rows to keep, or how to choose them.
        output: directory of the artifact.
        target: the model it will draft for; None takes the drafter's own width.
        keep: ids or tokens to keep whatever the ranking says.
        machine: where the models are loaded.

    Raises:
        InputError: a source does not exist.
    """

    drafter: str
    tokens: tuple[Path, ...]
    report_on: tuple[Path, ...]
    rank: RankName
    size: int | SizeSearch
    output: Path
    target: str | None
    keep: tuple[str, ...]
    machine: Machine

    def __post_init__(self) -> None:
        speed = self.size.speed if isinstance(self.size, SizeSearch) else None
        if speed is not None:
            check_other_prompts(tokens=self.tokens, traces=speed.traces)
        for option, paths in (("--tokens", self.tokens), ("--report-on", self.report_on)):
            for path in paths:
                if not path.exists():
                    raise InputError(
                        "There is no such token list", got=path, next_step=f"check the path given as {option}"
                    )


def parse_size(text: str, options: dict[str, Any]) -> int | SizeSearch:
    """What --size says, together with the options that only make sense with "auto"."""
    from outlex.selection.size import SizeGoal

    if text == AUTO:
        objective = options.get("--objective", Objective.flops)
        # a forecast already knows what shorter lists lose
        options = {"--alpha": 0.0, **options} if objective is Objective.speed else options
        return SizeSearch(
            goal=SizeGoal(**_chosen(options, "alpha", "min_coverage", "min_size", "max_size")),
            objective=objective,
            search=options.get("--search", SearchName.exact),
            seed=options.get("--seed", 0),
            speed=_speed(objective, options),
        )
    if options:
        raise InputError(
            f"{', '.join(options)} only make sense when the size is searched for",
            got=f"--size {text}",
            expected=f"--size {AUTO}",
            next_step=f"give --size {AUTO}, or leave them out",
        )
    try:
        return int(text)
    except ValueError as error:
        raise InputError(
            "This is no size",
            got=f"--size {text}",
            expected=f"a whole number, or {AUTO}",
            next_step=f"give the rows to keep, such as --size 16384, or --size {AUTO}",
        ) from error


def _speed(objective: Objective, options: dict[str, Any]) -> SpeedSearch | None:
    names = {"--traces": "traces", "--draft-len": "draft_lens", "--proposal": "proposals", "--bench": "bench"}
    given = {name: options[option] for option, name in names.items() if option in options}
    if objective is Objective.speed:
        return SpeedSearch(**{"traces": (), **given})
    if given:
        raise InputError(
            f"{', '.join(option for option in names if option in options)} only make sense when speed is forecast",
            got=f"--objective {objective.value}",
            expected=f"--objective {Objective.speed.value}",
            next_step=f"give --objective {Objective.speed.value}, or leave them out",
        )
    return None


def _chosen(options: dict[str, Any], *names: str) -> dict[str, Any]:
    found = {name: options.get(f"--{name.replace('_', '-')}") for name in names}
    return {name: value for name, value in found.items() if value is not None}
