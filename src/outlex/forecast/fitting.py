"""`fit_head`: the head with the highest forecast acceptance that a budget buys, from traces alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from outlex.calibration.traces import TraceSet
from outlex.drafters.fitted import FittedHead, Method
from outlex.errors import InputError
from outlex.forecast.candidates import UNTRIMMED, names_of
from outlex.forecast.head_builder import HeadBuilder
from outlex.forecast.head_times import relative_times
from outlex.forecast.run import forecast
from outlex.heads.linear import LinearHead

if TYPE_CHECKING:
    from outlex.forecast.result import Forecast
    from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["JOINING", "FitSettings", "FittedChoice", "Trial", "fit_head"]

OnProgress = Callable[[int, int, str], None]
JOINING = 256  # rows that a request's own tokens are taken to add, until a forecast has counted them


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What to fit.

    Attributes:
        method: "preview", "in-context" or "both".
        budget: share of the bytes of the drafter's head that a step may read, in (0, 1).
        max_latency: share of the full head's measured time that a step may take; None does not measure.
        shrinkage: of the covariance, see `PreviewSpace.fit`.
        capacity, top_m: see `Shortlists`.
        held_out: share of the traced prompts that heads are compared on.
        seed: of that split.

    Raises:
        InputError: a value out of range.
    """

    method: Method
    budget: float
    max_latency: float | None = None
    shrinkage: float = 0.05
    capacity: int = 2048
    top_m: int = 8
    held_out: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(
                "There is no such method",
                got=self.method,
                expected="preview, in-context or both",
                next_step="preview needs the fewest bytes for its acceptance",
            )
        for name, value in (("byte", self.budget), ("latency", self.max_latency)):
            if value is not None and not 0 < value < 1:
                raise InputError(
                    f"The {name} budget cannot be used",
                    got=value,
                    expected="a share of the drafter's whole head, between 0 and 1",
                    next_step="0.03 to 0.05 are good starts for bytes, 0.125 for time",
                )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One head that was tried: its bytes and α on the prompts it was not fitted to.

    Attributes:
        name: of the head.
        head_bytes: read a step, as a share of the full head's.
        acceptance: temperature -> mean β, with this head and with the whole one.
        latency: share of the full head's time; None if it was not measured.
    """

    name: str
    head_bytes: float
    acceptance: dict[float, tuple[float, float]]
    latency: float | None

    @property
    def kept(self) -> float:
        """Mean β as a share of the whole head's, mean over the temperatures; a whole head without any loses nothing."""
        return sum(own / whole if whole else 1.0 for own, whole in self.acceptance.values()) / len(self.acceptance)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "head_bytes": self.head_bytes,
            "kept": self.kept,
            "acceptance": {f"{t:g}": list(pair) for t, pair in self.acceptance.items()},
            "latency": self.latency,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedChoice:
    """The head, fitted to all traces, and the trials behind the choice, best first."""

    head: FittedHead
    trials: tuple[Trial, ...] = field(repr=False)


def fit_head(
    traces: Sequence[TraceSet],
    *,
    target_head: LinearHead,
    drafter_head: LinearHead,
    facts: TokenizerFacts,
    settings: FitSettings,
    on_progress: OnProgress | None = None,
) -> FittedChoice:
    """Fit heads to one part of the prompts, compare them on the other, and fit the best one to all of them.

    Args:
        traces: of one pair, several temperatures if you like.
        target_head, drafter_head: of the pair.
        facts: of the tokenizer.
        settings: method and budget.
        on_progress: called with the positions done, all positions, and what comes next.

    Raises:
        InputError: a budget that buys nothing, or too few traces.
        MismatchError: traces and heads do not belong together.
    """
    if not traces:
        raise InputError(
            "There is nothing to fit a head to", got="no traces", next_step="make some with `outlex trace`"
        )
    for one in traces:
        one.check_heads(target_head, drafter_head)
    report = on_progress or (lambda n_done, n_total, label: None)
    parts = [one.split(1 - settings.held_out, seed=settings.seed) for one in traces]
    fitted_to, compared_on = [part for part, _ in parts], [part for _, part in parts]
    build = HeadBuilder(target_head, drafter_head, facts=facts, stop_ids=traces[0].header.stop_ids, settings=settings)
    temperatures = sorted({1.0 if one.temperature is None else one.temperature for one in traces})
    n_joining = 0 if settings.method == "preview" else min(JOINING, drafter_head.n_rows // 16)
    limit = settings.budget * drafter_head.n_bytes
    first = build.calibrated(fitted_to)
    while True:
        report(0, 1, "fitting")
        plans = build.plans(n_joining)
        tried = build.heads(first, plans)
        found = forecast(
            compared_on,
            target_head=target_head,
            drafter_head=drafter_head,
            candidates=tried,
            temperatures=temperatures,
            draft_lens=[4],
            on_progress=on_progress,
        )
        sizes = [_head_bytes(found, name) for name in names_of(tried)]
        if min(sizes) <= limit:
            break
        # requests bring more tokens than was thought; with fewer static rows still more of them will join
        n_joining = math.ceil(1.05 * (n_joining + (min(sizes) - limit) / build.row_bytes))
    latencies: list[float | None] = [None] * len(tried)
    if settings.max_latency is not None:
        report(0, 1, "timing heads")
        latencies = [*relative_times(drafter_head, tried, compared_on[0], n_target=target_head.n_rows)]
    trials = [
        _trial(name, found, full_bytes=drafter_head.n_bytes, latency=latency)
        for name, latency in zip(names_of(tried), latencies, strict=True)
    ]
    cheap = [i for i, size in enumerate(sizes) if size <= limit]
    allowed = [i for i in cheap if (trials[i].latency or 0) <= (settings.max_latency or math.inf)]
    if not allowed:
        fastest = min(trials[i].latency or 0 for i in cheap)
        raise InputError(
            "No head that fits the byte budget is that fast",
            got=f"a latency budget of {settings.max_latency:.1%} of the full head's time",
            expected=f"at least {fastest:.1%} on this machine",
            next_step="give a larger --latency, or a smaller --budget",
        )
    ordered = sorted(allowed, key=lambda i: -trials[i].kept)
    report(0, 1, "fitting the best one to all traces")
    head = build.heads(build.calibrated(traces), [plans[ordered[0]]])[0]
    provenance = {
        **head.provenance,
        "settings": vars(settings).copy(),
        "trials": [trials[i].to_json() for i in ordered],
        "compared_on": {"positions": sum(map(len, compared_on)), "prompts": sum(len(p.prompts) for p in compared_on)},
    }
    return FittedChoice(head=replace(head, provenance=provenance), trials=tuple(trials[i] for i in ordered))


def _trial(name: str, found: Forecast, *, full_bytes: int, latency: float | None) -> Trial:
    acceptance = {}
    for cell in found.cells:
        if cell.domain is None and cell.candidate == name:
            whole = found.cell(UNTRIMMED, temperature=cell.temperature, draft_len=cell.draft_len)
            acceptance[cell.temperature] = (cell.mean_beta.value, whole.mean_beta.value)
    return Trial(name=name, head_bytes=_head_bytes(found, name) / full_bytes, acceptance=acceptance, latency=latency)


def _head_bytes(found: Forecast, name: str) -> float:
    """Bytes a step, mean over the positions of the temperature that takes most."""
    return max(cell.head_bytes for cell in found.cells if cell.candidate == name and cell.domain is None)
