"""From overlaps and chains to the numbers of a cell: sums over prompts first, ratios last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from outlex.calibration.trace_records import TraceHeader
from outlex.forecast.candidates import Candidate
from outlex.forecast.chains import ChainSums, walk
from outlex.forecast.overlaps import Overlaps
from outlex.forecast.result import Cell
from outlex.forecast.step_times import StepTimes
from outlex.metrics import Estimate, clustered_ratio, expected_speedup

__all__ = ["cells_of"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _BlockCosts:
    """What a target pass and a draft step cost, in seconds or in bytes.

    Attributes:
        target_pass: a pass that verifies γ drafts.
        draft_step: one draft.
        alone: a pass of the target alone.
        in_seconds: whether these are seconds.
    """

    target_pass: float
    draft_step: float
    alone: float | None
    in_seconds: bool


def _costs_of(
    header: TraceHeader, times: StepTimes | None, candidate: Candidate, *, head_bytes: float, draft_len: int
) -> _BlockCosts:
    """In seconds where the times reach, else in bytes of weights."""
    if times is not None:
        target_pass, draft_step = times.target_pass(draft_len), candidate.step_s(times)
        if target_pass is not None and draft_step is not None:
            return _BlockCosts(
                target_pass=target_pass, draft_step=draft_step, alone=times.target_pass(0), in_seconds=True
            )
    target_bytes, draft_bytes = _bytes(header, head_bytes)
    return _BlockCosts(target_pass=target_bytes, draft_step=draft_bytes, alone=target_bytes, in_seconds=False)


def cells_of(
    header: TraceHeader,
    candidates: Sequence[Candidate],
    overlaps: Sequence[Overlaps],
    *,
    temperature: float,
    draft_len: int,
    own_text: bool,
    times: StepTimes | None,
) -> Iterator[Cell]:
    """The cells of one temperature and draft length; the first candidate is the untrimmed head.

    Args:
        header: of the traces.
        candidates: what is compared.
        overlaps: one a candidate.
        temperature, draft_len: of decoding.
        own_text: whether the text is a sample at this temperature, see `outlex.forecast.chains`.
        times: None forecasts no seconds.
    """
    lengths = np.array([prompt.n_positions for prompt in header.prompts], dtype=np.int64)
    chains = [
        walk(
            accept=o.accept if own_text else o.beta,
            beta=o.beta,
            lengths=lengths,
            draft_len=draft_len,
            max_new_tokens=header.settings.max_new_tokens,
        )
        for o in overlaps
    ]
    pairs = list(zip(candidates, overlaps, strict=True))
    costs = [_costs_of(header, times, c, head_bytes=o.head_bytes, draft_len=draft_len) for c, o in pairs]
    if not all(cost.in_seconds for cost in costs):  # never compare seconds with bytes
        costs = [_costs_of(header, None, c, head_bytes=o.head_bytes, draft_len=draft_len) for c, o in pairs]
    spent = [_spent(chain, cost) for chain, cost in zip(chains, costs, strict=True)]
    domains = list(dict.fromkeys(prompt.domain for prompt in header.prompts))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    for candidate, o, chain, cost, own in zip(candidates, overlaps, chains, costs, spent, strict=True):
        sums = {name: np.add.reduceat(getattr(o, name), starts) for name in ("beta", "oov_mass")}
        for domain in [None, *(domains if len(domains) > 1 else [])]:
            mask = np.array([domain in (None, prompt.domain) for prompt in header.prompts])
            tau = _ratio(lengths, chain.passes, mask)
            target_bytes, draft_bytes = _bytes(header, o.head_bytes)
            yield Cell(
                candidate=candidate.name,
                n_draft=round(o.n_draft),
                head_bytes=o.head_bytes,
                temperature=temperature,
                draft_len=draft_len,
                domain=domain,
                n_prompts=int(mask.sum()),
                n_positions=int(lengths[mask].sum()),
                mean_beta=_ratio(sums["beta"], lengths, mask),
                acceptance_rate=_ratio(chain.accepted, chain.tested, mask),
                block_efficiency=tau,
                oov_mass=_ratio(sums["oov_mass"], lengths, mask),
                mbsu=expected_speedup(tau.value, draft_len, draft_bytes / target_bytes),
                tokens_per_s=_tokens_per_s(header, own, mask, times) if cost.in_seconds else None,
                expected_speedup=(
                    float(lengths[mask].sum() * cost.alone / own[mask].sum())
                    if cost.in_seconds and cost.alone is not None
                    else None
                ),
                over_untrimmed=_ratio(spent[0], own, mask),
            )


def _spent(chain: ChainSums, cost: _BlockCosts) -> Floats:
    return chain.passes * cost.target_pass + chain.drafted * cost.draft_step


def _tokens_per_s(
    header: TraceHeader, spent: Floats, mask: npt.NDArray[np.bool_], times: StepTimes | None
) -> float | None:
    if times is None:
        return None
    a_prompt_token = times.target_prompt_s + times.draft_prompt_s
    chosen = [prompt for prompt, is_in in zip(header.prompts, mask, strict=True) if is_in]
    reading = a_prompt_token * sum(prompt.n_prompt for prompt in chosen)
    return sum(prompt.n_positions for prompt in chosen) / (float(spent[mask].sum()) + reading)


def _bytes(header: TraceHeader, head_bytes: float) -> tuple[float, float]:
    """Weights read by a target pass and by a draft step."""
    return header.target.body_bytes + header.target.head_bytes, header.drafter.body_bytes + head_bytes


def _ratio(
    numerators: Floats | npt.NDArray[np.int64],
    denominators: Floats | npt.NDArray[np.int64],
    mask: npt.NDArray[np.bool_],
) -> Estimate:
    return clustered_ratio(numerators[mask].tolist(), denominators[mask].tolist())
