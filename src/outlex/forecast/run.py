"""`forecast`: what trimmed drafters and fitted heads will do in decoding, from traces and LM heads alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from outlex.calibration.traces import TraceSet
from outlex.errors import InputError
from outlex.forecast.candidates import candidates_for
from outlex.forecast.cells import cells_of
from outlex.forecast.overlaps import OverlapTable, overlap_table
from outlex.forecast.result import Cell, Forecast, Verdict
from outlex.forecast.step_times import StepTimes
from outlex.forecast.verdicts import verdicts_of
from outlex.proposals.base import Proposal
from outlex.sampling import SamplingParams

if TYPE_CHECKING:
    from outlex.drafters.artifacts import DraftHeadArtifact
    from outlex.forecast.candidates import Candidate
    from outlex.heads.linear import LinearHead
    from outlex.vocab.sub_vocab import SubVocab
    from outlex.vocab.token_map import TokenMap

__all__ = ["forecast", "nearest_set"]

_FEW_PROMPTS = 8
OnProgress = Callable[[int, int, str], None]


def forecast(
    traces: TraceSet | Sequence[TraceSet],
    *,
    target_head: LinearHead,
    drafter_head: LinearHead,
    shared: TokenMap | None = None,
    candidates: Sequence[SubVocab | DraftHeadArtifact],
    temperatures: Sequence[float],
    draft_lens: Sequence[int],
    proposal: Proposal | None = None,
    times: StepTimes | None = None,
    tokens_per_pass: int = 3,
    on_progress: OnProgress | None = None,
) -> Forecast:
    """Forecast acceptance and speed of decoding up to the traces' `max_new_tokens`.

    The drafter's whole head is always forecast too: it is what trims are compared with.

    Args:
        traces: of one pair; several sets may come from several temperatures, and each temperature is forecast from the
            set that was sampled at it. A temperature without one of its own is forecast from the nearest, and noted.
        target_head, drafter_head: of the traced pair, whole, on one device.
        shared: drafter rows to tokens of a target with another tokenizer, see `shared_tokens`; None for one tokenizer.
        candidates: draft vocabularies, trimmed drafters and fitted heads to compare.
        temperatures: of decoding; 0 is greedy.
        draft_lens: γ.
        proposal: q ↦ q̃ of all candidates; by default each one's own: what its artifact holds, else TLI.
        times: step times; without them speed is forecast in bytes only.
        tokens_per_pass: heads that follow the request are shown the text in blocks of so many tokens, because in
            decoding they learn what was verified once a target pass. Give τ, rounded, if you know it: more tokens a
            pass let such a head know less while it drafts.
        on_progress: called with the positions done, all positions, and what comes next.

    Raises:
        InputError: no traces, no temperature or no draft length, or values out of range.
        MismatchError: traces, heads and candidates do not belong together.
        NumericalError: logits hold NaN or infinity.
    """
    sets = [traces] if isinstance(traces, TraceSet) else list(traces)
    _check(sets, temperatures, draft_lens, tokens_per_pass)
    for one in sets:
        one.check_heads(target_head, drafter_head, cross_tokenizer=shared is not None)
    named = candidates_for(
        candidates, traces=sets[0], target_head=target_head, drafter_head=drafter_head, shared=shared
    )
    set_of = {temperature: nearest_set(sets, temperature) for temperature in temperatures}
    n_total = sum(len(sets[i]) for i in set(set_of.values()))
    n_before, tables = 0, dict[int, OverlapTable]()
    report = on_progress or _silent
    for i in sorted(set(set_of.values())):
        own = [temperature for temperature in temperatures if set_of[temperature] == i]
        tables[i] = overlap_table(
            sets[i],
            target_head=target_head,
            drafter_head=drafter_head,
            shared=shared,
            candidates=named,
            temperatures=own,
            proposal=proposal,
            tokens_per_pass=tokens_per_pass,
            on_progress=_shifted(report, n_before, n_total),
        )
        n_before += len(sets[i])
    cells: list[Cell] = []
    verdicts: list[Verdict] = []
    for temperature in temperatures:
        one, table = sets[set_of[temperature]], tables[set_of[temperature]]
        for draft_len in draft_lens:
            found = list(
                cells_of(
                    one.header,
                    named,
                    [table.cells[i, temperature] for i in range(len(named))],
                    temperature=temperature,
                    draft_len=draft_len,
                    own_text=one.temperature == temperature,
                    times=None if times is None else times.at(temperature),
                )
            )
            cells += found
            verdicts += verdicts_of(
                [cell for cell in found if cell.domain is None],
                mass_of_half=table.mass_of_half[temperature],
                n_of_half=table.n_of_half,
            )
    return Forecast(
        target=sets[0].header.target.name,
        drafter=sets[0].header.drafter.name,
        proposal=", ".join(dict.fromkeys(one.proposal.name for one in named)) if proposal is None else proposal.name,
        cells=tuple(cells),
        verdicts=tuple(verdicts),
        notes=tuple(_notes(sets, set_of, draft_lens, cells, named, times)),
        times=times,
    )


def _check(
    sets: Sequence[TraceSet], temperatures: Sequence[float], draft_lens: Sequence[int], tokens_per_pass: int
) -> None:
    for temperature in temperatures:
        SamplingParams(temperature=temperature)
    lens = [*draft_lens, tokens_per_pass]
    lens_fit = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in lens)
    once = len(set(temperatures)) == len(temperatures) and len(set(draft_lens)) == len(draft_lens)
    if not sets or not temperatures or not draft_lens or not lens_fit or not once:
        raise InputError(
            "Nothing can be forecast from this",
            got=f"{len(sets)} traces, temperatures {list(temperatures)}, draft lengths {list(draft_lens)}, "
            f"{tokens_per_pass} tokens a pass",
            expected="at least one of each, each value once, draft lengths and tokens a pass of at least 1",
            next_step="give --traces, --temperature and --draft-len",
        )


def nearest_set(sets: Sequence[TraceSet], temperature: float) -> int:
    """Index of the set sampled at this temperature, or at the nearest; given responses come last."""

    def distance(i: int) -> float:
        own = sets[i].temperature
        return float("inf") if own is None else abs(own - temperature)

    return min(range(len(sets)), key=distance)


def _notes(
    sets: Sequence[TraceSet],
    set_of: dict[float, int],
    draft_lens: Sequence[int],
    cells: Sequence[Cell],
    candidates: Sequence[Candidate],
    times: StepTimes | None,
) -> list[str]:
    notes = []
    for temperature, i in set_of.items():
        own = sets[i].temperature
        if own is None:
            notes.append(
                f"T = {temperature:g} is forecast on given responses: if the target would write other text at this"
                " temperature, α and τ will differ."
            )
        elif own != temperature:
            notes.append(
                f"T = {temperature:g} is forecast on text sampled at T = {own:g}. Decoding at T = {temperature:g}"
                f" visits other text: for a forecast to rely on, run outlex trace --temperature {temperature:g}."
            )
    few = {(cell.domain, cell.n_prompts) for cell in cells if cell.n_prompts < _FEW_PROMPTS}
    for is_one, word in ((True, "no interval can be given"), (False, "intervals are wide, and rough themselves")):
        here = sorted((domain or "all", n) for domain, n in few if (n == 1) == is_one)
        if here:
            counted = ", ".join(f"{domain} {n}" for domain, n in here)
            notes.append(f"There are few prompts ({counted}), so {word}.")
    if times is None:
        notes.append("No step times were given: speed is forecast in bytes of weights only.")
    else:
        lost = [f"{c.n_draft} rows" if c.head is None else c.name for c in candidates if c.step_s(times) is None]
        lost += [f"draft length {n}" for n in draft_lens if times.target_pass(n) is None]
        if lost:
            notes.append(
                f"The step times ({times.source}) do not reach to {', '.join(lost)}: speed is forecast in bytes of"
                " weights where they are needed."
            )
    return notes


def _shifted(report: OnProgress, n_before: int, n_total: int) -> Callable[[int, int], None]:
    return lambda n_done, _: report(n_before + n_done, n_total, "laws of both models")


def _silent(n_done: int, n_total: int, label: str) -> None:
    del n_done, n_total, label
