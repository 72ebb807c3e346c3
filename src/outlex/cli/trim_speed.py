"""`outlex trim --size auto --objective speed`: traces and times in, the setting of best forecast speed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from outlex.cli.forecast_times import times_of_bench
from outlex.cli.options import Machine
from outlex.cli.output import say
from outlex.cli.progress import Ticker
from outlex.cli.request import make_proposal
from outlex.cli.trim_config import SizeSearch, SpeedSearch
from outlex.models.output_head import output_head
from outlex.selection.pareto import thinned
from outlex.selection.size import size_range

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.forecast import StepTimes
    from outlex.heads.linear import LinearHead
    from outlex.models import LanguageModel
    from outlex.selection.coverage import CoverageCurve
    from outlex.vocab.sub_vocab import SubVocab

__all__ = ["HELD_OUT_NAMES", "held_out_rows", "read_traces", "search_speed", "speed_front", "speed_reasons"]

HELD_OUT_NAMES = ("T", "domain", "prompts", "α", "τ", "tokens/s", "× untrimmed", "× alone")
_SHARE_TO_CHOOSE_ON = 0.5
_N_TIMED_SIZES = 5


def read_traces(size: int | SizeSearch, drafter_head: LinearHead) -> list[TraceSet]:
    """The traces to forecast on, none without a search for speed.

    Raises:
        ArtifactError: no traces, or damaged ones.
        MismatchError: of another drafter, or of several targets.
    """
    from outlex.calibration.head_files import load_head
    from outlex.calibration.traces import TraceSet

    if not isinstance(size, SizeSearch) or size.speed is None:
        return []
    sets = [TraceSet.load(path) for path in size.speed.traces]
    target_head = load_head(sets[0].header.target, device=drafter_head.weight.device) if len(sets) > 1 else None
    for one in sets:
        one.header.drafter.check(drafter_head, role="drafter")
        if target_head is not None:
            one.header.target.check(target_head, role="target")
    return sets


def search_speed(
    search: SizeSearch,
    speed: SpeedSearch,
    sets: Sequence[TraceSet],
    *,
    curve: CoverageCurve,
    drafter: LanguageModel,
    vocab_of: Callable[[int], SubVocab],
    machine: Machine,
) -> dict[str, Any]:
    """The best setting and the reasons for it, as a JSON object; chosen on one half of the prompts, told on the other.

    Raises:
        OutlexError: too few prompts, step times that do not reach, or no size that is allowed.
    """
    from outlex.calibration.head_files import load_head
    from outlex.forecast.joint import plan_speed
    from outlex.forecast.setting_speeds import Setting, SpeedForecaster

    halves = [one.split(_SHARE_TO_CHOOSE_ON, seed=search.seed) for one in sets]
    sizes = thinned(*size_range(curve, search.goal), n=_N_TIMED_SIZES)
    times = times_of_bench(speed.bench) if speed.bench else _measured(sets[0], drafter, sizes, speed, machine)
    head = output_head(drafter)
    target_head = load_head(sets[0].header.target, device=drafter.device)
    with Ticker() as ticker:
        chosen_on, told_on = (
            SpeedForecaster(
                part,
                target_head=target_head,
                drafter_head=head,
                vocab_of=vocab_of,
                draft_lens=speed.draft_lens,
                proposals={name.value: make_proposal(name) for name in speed.proposals},
                times=times,
                on_progress=ticker.of_total,
            )
            for part in zip(*halves, strict=True)
        )
        plan = plan_speed(curve, search.goal, chosen_on, search_by=search.search.value, seed=search.seed)
        best = plan.choice
        setting = Setting(size=best.size, draft_len=best.draft_len, proposal=best.proposal)
        return {
            **plan.to_json(),
            "times": times.source,
            "held_out": {
                "n_prompts": sum(len(told.prompts) for _, told in halves),
                "tokens_per_s": told_on.tokens_per_s(setting),
                "untrimmed_tokens_per_s": told_on.tokens_per_s(plan.untrimmed),
                "cells": [_plain(cell) for cell in told_on.cells(setting)],
            },
        }


def _plain(cell: Any) -> dict[str, Any]:
    """What of a forecast goes into the record."""
    return {
        "temperature": cell.temperature,
        "domain": cell.domain,
        "n_prompts": cell.n_prompts,
        "acceptance_rate": cell.acceptance_rate.value,
        "block_efficiency": cell.block_efficiency.value,
        "tokens_per_s": cell.tokens_per_s,
        "over_untrimmed": cell.over_untrimmed.value,
        "expected_speedup": cell.expected_speedup,
    }


def _measured(
    traces: TraceSet, drafter: LanguageModel, sizes: Sequence[int], speed: SpeedSearch, machine: Machine
) -> StepTimes:
    from outlex.forecast import measure_step_times

    machine.warn_if_busy()
    say("timing passes of the target and steps of the drafter ...", style="dim")
    source = Machine(dtype=traces.header.target.dtype, device=machine.device, threads=machine.threads)
    target = source.load(traces.header.target.source)
    with Ticker() as ticker:
        return measure_step_times(
            target, drafter, sizes=sizes, draft_lens=speed.draft_lens, on_progress=ticker.of_total
        )


def speed_reasons(search: dict[str, Any]) -> dict[str, str]:
    """Why it is this setting, for people."""
    alpha, base = search["goal"]["alpha"], search["untrimmed"]
    told = search["held_out"]
    return {
        "draft with": f"draft length {search['draft_len']}, proposal {search['proposal']}",
        "why": f"best {alpha:g}·C + {1 - alpha:g}·R = {search['utility']:.4f}, C {search['coverage']:.4f},"
        f" R {search['reduction']:.4f} of the time for a token",
        "forecast": f"{search['tokens_per_s']:.2f} tokens/s; untrimmed at its best {base['tokens_per_s']:.2f}"
        f" (draft length {base['draft_len']}, {base['proposal']})",
        "other half": f"{told['tokens_per_s']:.2f} tokens/s; untrimmed {told['untrimmed_tokens_per_s']:.2f}"
        f" ({told['n_prompts']} prompts that did not choose)",
        "found by": f"{search['method']}, {search['n_tried']} settings",
        "step times": search["times"],
    }


def speed_front(search: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of the table of settings that nothing beats."""
    best = (search["size"], search["draft_len"], search["proposal"])
    for point in search["pareto"]:
        mark = " <" if (point["size"], point["draft_len"], point["proposal"]) == best else ""
        yield (
            f"{point['size']:,}{mark}",
            str(point["draft_len"]),
            point["proposal"],
            f"{point['coverage']:.4f}",
            f"{point['tokens_per_s']:.2f}",
            f"{point['reduction']:.3f}",
        )


def held_out_rows(search: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of the table of what was not chosen by, named by `HELD_OUT_NAMES`."""
    for cell in search["held_out"]["cells"]:
        alone = cell["expected_speedup"]
        yield (
            f"{cell['temperature']:g}",
            cell["domain"] or "all",
            str(cell["n_prompts"]),
            f"{cell['acceptance_rate']:.3f}",
            f"{cell['block_efficiency']:.2f}",
            f"{cell['tokens_per_s']:.2f}",
            f"{cell['over_untrimmed']:.3f}",
            "–" if alone is None else f"{alone:.2f}",
        )
