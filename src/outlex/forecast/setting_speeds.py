"""Forecast speed of one way to draft after the other, each size forecast once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outlex.errors import InputError
from outlex.forecast.candidates import UNTRIMMED
from outlex.forecast.result import Cell, Forecast
from outlex.forecast.run import OnProgress, forecast

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.forecast.step_times import StepTimes
    from outlex.heads.linear import LinearHead
    from outlex.proposals.base import Proposal
    from outlex.vocab.sub_vocab import SubVocab

__all__ = ["Setting", "SpeedForecaster"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to draft.

    Attributes:
        size: rows of the draft head; None for all of them.
        draft_len: γ.
        proposal: name of q̃.
    """

    size: int | None
    draft_len: int
    proposal: str


class SpeedForecaster:
    """Forecast speeds on one part of the traces; a size is forecast once, at all draft lengths together.

    Args:
        traces: of one pair, each forecast at the temperature it was sampled at (1 for given responses). Speeds are
            tokens of all sets over seconds of all sets.
        target_head, drafter_head: of the traced pair, whole, on one device.
        vocab_of: the sub-vocabulary of a size.
        draft_lens: γ to choose from.
        proposals: q̃ to choose from, by name.
        times: seconds of passes and steps.
        on_progress: called with the positions done, all positions, and what comes next.

    Raises:
        InputError: nothing to choose from, or a temperature twice.
    """

    def __init__(
        self,
        traces: Sequence[TraceSet],
        *,
        target_head: LinearHead,
        drafter_head: LinearHead,
        vocab_of: Callable[[int], SubVocab],
        draft_lens: Sequence[int],
        proposals: Mapping[str, Proposal],
        times: StepTimes,
        on_progress: OnProgress | None = None,
    ) -> None:
        if not traces or not draft_lens or not proposals:
            raise InputError(
                "There is nothing to choose from",
                got=f"{len(traces)} traces, {len(draft_lens)} draft lengths, {len(proposals)} proposals",
                expected="at least one of each",
                next_step="give --traces, --draft-len and --proposal",
            )
        self._temperatures = tuple(1.0 if one.temperature is None else one.temperature for one in traces)
        if len(set(self._temperatures)) < len(traces):
            raise InputError(
                "Two traces speak of the same temperature",
                got=f"temperatures {', '.join(f'{t:g}' for t in self._temperatures)}",
                expected="each temperature once; given responses count as temperature 1",
                next_step="leave one of them out, or trace all prompts into one directory",
            )
        self.draft_lens = tuple(draft_lens)
        self.proposals = dict(proposals)
        self._traces = tuple(traces)
        self._heads = (target_head, drafter_head)
        self._vocab_of = vocab_of
        self._times = times
        self._on_progress = on_progress
        self._found: dict[tuple[int | None, str], Forecast] = {}

    def learn(self, sizes: Collection[int], proposals: Collection[str] | None = None) -> None:
        """Forecast several sizes in one pass over the traces."""
        for name in proposals or self.proposals:
            new = sorted({size for size in sizes if (size, name) not in self._found})
            if new or (None, name) not in self._found:
                result = self._forecast(new, name)
                self._found.update({(size, name): result for size in (None, *new)})

    def cells(self, setting: Setting) -> list[Cell]:
        """What is forecast for a setting: at each temperature, all prompts first and then each domain."""
        self.learn([] if setting.size is None else [setting.size], [setting.proposal])
        name = UNTRIMMED if setting.size is None else f"trimmed-{setting.size}"
        cells = self._found[setting.size, setting.proposal].cells
        return [cell for cell in cells if cell.candidate == name and cell.draft_len == setting.draft_len]

    def tokens_per_s(self, setting: Setting) -> float:
        """Tokens over seconds, all prompts and temperatures together.

        Raises:
            InputError: the step times do not reach to this setting.
        """
        n_tokens, seconds = 0, 0.0
        for cell in self.cells(setting):
            if cell.domain is None:
                if cell.tokens_per_s is None:
                    raise InputError(
                        "The step times do not reach to every setting",
                        got=f"{self._times.source}; draft length {setting.draft_len}, {cell.n_draft} rows",
                        expected="times of the smallest and the largest size and draft length, or beyond",
                        next_step="leave --bench out to measure here, or narrow --min-size, --max-size and --draft-len",
                    )
                n_tokens += cell.n_positions
                seconds += cell.n_positions / cell.tokens_per_s
        return n_tokens / seconds

    def _forecast(self, sizes: Sequence[int], proposal: str) -> Forecast:
        return forecast(
            self._traces,
            target_head=self._heads[0],
            drafter_head=self._heads[1],
            candidates=[self._vocab_of(size) for size in sizes],
            temperatures=self._temperatures,
            draft_lens=self.draft_lens,
            proposal=self.proposals[proposal],
            times=self._times,
            on_progress=self._on_progress,
        )
