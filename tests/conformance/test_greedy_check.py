"""Greedy outputs: equality, ties that rounding explains, and departures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from faulty_engines import FAULTS, PROMPTS, N, TableReference, ToyEngine, reference, target_logits

from outlex.conformance.greedy import check_greedy, tie_bounds
from outlex.errors import InputError


@dataclass
class _Scripted:
    """Says what it is told to (protocol `Engine`)."""

    output: tuple[int, ...]
    dtype: str = "bfloat16"
    name: str = "scripted"

    def sample(self, prompt_ids: Any, *, params: Any, n_samples: int, max_new_tokens: int, seed: int) -> Any:
        assert params.greedy
        return [self.output]


def with_gap(gap: float) -> TableReference:
    """Token 3 leads token 5 by a gap, whatever comes before; logits reach 20."""
    row = torch.full((N,), -20.0)
    row[3], row[5] = 10.0, 10.0 - gap
    return TableReference(lambda _: row)


def test_our_own_loop_is_equal_token_for_token() -> None:
    found = check_greedy(ToyEngine(), reference(), PROMPTS, max_new_tokens=12, repetition_penalty=1.2)
    assert (found.n_prompts, found.n_tokens, found.n_equal) == (4, 48, 4)
    assert found.disagreements == ()


def test_a_wrong_row_of_the_target_is_a_departure() -> None:
    make, _ = FAULTS["target row off by one position"]
    found = check_greedy(make(), reference(), PROMPTS, max_new_tokens=12)
    assert found.n_equal < 4
    worst = found.departures[0]
    row = target_logits((*PROMPTS[worst.prompt], *_before(make(), worst.prompt, worst.position)))
    assert worst.expected == int(row.argmax())
    assert worst.gap == pytest.approx(float(row.max() - row[worst.got]))


def _before(engine: ToyEngine, prompt: int, n: int) -> tuple[int, ...]:
    from outlex.sampling import SamplingParams

    (ids,) = engine.sample(
        PROMPTS[prompt], params=SamplingParams(temperature=0.0), n_samples=1, max_new_tokens=12, seed=0
    )
    return ids[:n]


def test_a_gap_within_rounding_is_a_tie_and_beyond_it_a_departure() -> None:
    bound = float(tie_bounds(torch.full((1, N), 20.0), "bfloat16"))
    for gap, n_departures in ((0.0, 0), (0.5 * bound, 0), (1.5 * bound, 1)):
        found = check_greedy(_Scripted((3, 5, 3)), with_gap(gap), [[0]], max_new_tokens=3)
        assert len(found.departures) == n_departures
        assert len(found.disagreements) == (gap > 0)
        if gap:
            assert (found.disagreements[0].position, found.disagreements[0].got) == (1, 5)
    # the same gap in float32 is no rounding
    found = check_greedy(_Scripted((5,), dtype="float32"), with_gap(0.5 * bound), [[0]], max_new_tokens=1)
    assert len(found.departures) == 1


def test_bounds_follow_dtype_and_scale() -> None:
    logits = torch.tensor([[1.0, -4.0, -torch.inf], [40.0, 2.0, 1.0]])
    bounds = {dtype: tie_bounds(logits, dtype) for dtype in ("float32", "float16", "bfloat16")}
    assert bounds["float32"][1] == pytest.approx(10 * bounds["float32"][0])
    assert bounds["float32"][0] < bounds["float16"][0] < bounds["bfloat16"][0]
    with pytest.raises(InputError, match="type rounds") as refused:
        tie_bounds(logits, "int8")
    assert "--engine-dtype" in str(refused.value)
