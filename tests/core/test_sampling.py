"""Temperature, filters and penalty against their definitions and against transformers' own processors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outlex.errors import InputError
from outlex.sampling import SamplingParams, penalize_repetition, probabilities


def random_logits(seed: int, n: int, width: int, scale: float = 4.0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * scale


@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_probabilities_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = random_logits(seed, 3, 60)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    wanted = warpers(torch.zeros(3, 1, dtype=torch.long), logits.clone()).softmax(-1)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    torch.testing.assert_close(probabilities(logits, params), wanted, atol=2e-6, rtol=1e-4)


def test_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, seen_ids = random_logits(1, 2, 40), torch.tensor([[3, 5, 5], [0, 39, 7]])
    seen = torch.zeros(2, 40, dtype=torch.bool).scatter_(1, seen_ids, True)
    wanted = RepetitionPenaltyLogitsProcessor(1.3)(seen_ids, logits.clone())
    assert torch.equal(penalize_repetition(logits, seen, 1.3), wanted)


def test_a_nucleus_wider_than_the_guess_equals_the_full_sort() -> None:
    flat = random_logits(2, 2, 5000, scale=0.1)  # 0.9 of the mass needs about 4,500 tokens: past the guess
    peaked = random_logits(3, 2, 5000, scale=6.0)  # within it
    for logits in (flat, peaked):
        got = probabilities(logits, SamplingParams(top_p=0.9))
        probs = logits.softmax(-1)
        order = probs.argsort(-1, descending=True)
        sorted_probs = probs.gather(-1, order)
        keep = (sorted_probs.double().cumsum(-1) - sorted_probs) < 0.9
        wanted = torch.zeros_like(probs).scatter_(-1, order, sorted_probs * keep)
        torch.testing.assert_close(got, wanted / wanted.sum(-1, keepdim=True), atol=1e-7, rtol=1e-4)


def test_temperature_zero_is_the_first_arg_max() -> None:
    logits = torch.tensor([[1.0, 7.0, 7.0, -2.0], [-torch.inf, -5.0, -torch.inf, -9.0]])
    probs = probabilities(logits, SamplingParams(temperature=0))
    assert probs.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]


def test_extreme_temperatures_stay_finite() -> None:
    logits = torch.tensor([[3e4, -3e4, 0.0]], dtype=torch.float32)
    for temperature in (1e-6, 1e6):
        assert probabilities(logits, SamplingParams(temperature=temperature)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rows_sum_to_one_in_every_dtype(dtype: torch.dtype) -> None:
    probs = probabilities(random_logits(4, 2, 151_936).to(dtype), SamplingParams(top_k=1000, min_p=1e-4))
    assert probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, dtype=probs.dtype), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_row_is_nan_from_end_to_end_and_the_others_are_not(bad: float, temperature: float) -> None:
    logits = random_logits(5, 3, 10)
    logits[1, 4] = bad
    probs = probabilities(logits, SamplingParams(temperature=temperature))
    assert probs[1].isnan().all()
    assert probs[[0, 2]].isfinite().all()
    assert probabilities(torch.full((1, 4), -torch.inf), SamplingParams()).isnan().all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"temperature": True},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]
