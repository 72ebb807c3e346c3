"""What a forecast says, as values: one cell a candidate, temperature, draft length and domain."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from outlex.forecast.step_times import StepTimes
from outlex.metrics import Estimate

__all__ = ["Cell", "Forecast", "Verdict"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One forecast. Intervals are 95 %, with prompts as clusters; their ends are NaN for a single prompt.

    Attributes:
        candidate: name; "untrimmed" is the drafter's whole head.
        n_draft: rows of the draft head; for a head that chooses its tokens, how many it scores on average.
        head_bytes: bytes of the draft head that a draft step reads, mean over the positions.
        temperature, draft_len: of decoding.
        domain: None for all prompts together.
        n_prompts, n_positions: it rests on.
        mean_beta: mean β over every position of the text alike.
        acceptance_rate: α, mean β over positions as decoding tests them; what `outlex bench` reports as α, mean β.
        block_efficiency: τ, tokens a target pass.
        oov_mass: the target's probability of tokens without a row in the draft head.
        ceiling: 1 − oov_mass, which no mean β can exceed.
        mbsu: τ / (γ·c + 1) with c in bytes of weights.
        tokens_per_s: reading the prompts included, if the step times say how long that takes; None without step times.
        expected_speedup: speed of decoding over the target alone, in measured seconds; None without step times.
        over_untrimmed: speed of decoding over the untrimmed head's, in measured seconds, or in bytes without times.
    """

    candidate: str
    n_draft: int
    head_bytes: float
    temperature: float
    draft_len: int
    domain: str | None
    n_prompts: int
    n_positions: int
    mean_beta: Estimate
    acceptance_rate: Estimate
    block_efficiency: Estimate
    oov_mass: Estimate
    mbsu: float
    tokens_per_s: float | None
    expected_speedup: float | None
    over_untrimmed: Estimate

    @property
    def ceiling(self) -> float:
        return 1 - self.oov_mass.value


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a trim pays, over all prompts.

    Attributes:
        candidate, temperature, draft_len: what it is about.
        decision: "trim", "do not trim", "change the list" or "no clear difference".
        kept: ρ_τ, the candidate's τ / the untrimmed head's.
        needed: what ρ_τ has to exceed: (1 + νκ) / (1 + κ), the mean cost of a block / that with the untrimmed head.
        in_seconds: costs are measured seconds; otherwise bytes of weights.
        sentence: the same in words.
    """

    candidate: str
    temperature: float
    draft_len: int
    decision: str
    kept: float
    needed: float
    in_seconds: bool
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """All cells, and what follows from them.

    Attributes:
        target, drafter: names.
        proposal: name.
        cells: by temperature, draft length, candidate, and domain (all prompts first).
        verdicts: one a trimmed candidate, temperature and draft length.
        notes: what the reader has to know about the numbers.
        times: the step times used; None if there were none.
    """

    target: str
    drafter: str
    proposal: str
    cells: tuple[Cell, ...] = field(repr=False)
    verdicts: tuple[Verdict, ...] = field(repr=False)
    notes: tuple[str, ...]
    times: StepTimes | None

    def cell(self, candidate: str, *, temperature: float, draft_len: int, domain: str | None = None) -> Cell:
        """The cell of these values.

        Raises:
            KeyError: there is none.
        """
        wanted = (candidate, temperature, draft_len, domain)
        for cell in self.cells:
            if (cell.candidate, cell.temperature, cell.draft_len, cell.domain) == wanted:
                return cell
        raise KeyError(wanted)

    def to_json(self) -> dict[str, Any]:
        """JSON values; NaN becomes null."""
        body = asdict(self)
        for cell, values in zip(self.cells, body["cells"], strict=True):
            values["ceiling"] = cell.ceiling
        plain: dict[str, Any] = _plain(body)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
