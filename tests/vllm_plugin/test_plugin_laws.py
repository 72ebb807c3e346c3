"""What the vLLM plugin hands to vLLM: its softmax is the proposal, whatever the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fitted_heads import fitted, small_preview, states
from hypothesis import given
from hypothesis import strategies as st
from proposal_builders import all_proposals, scores_of, tli
from tiny_models import tiny_pair

from outlex.errors import MismatchError
from outlex.heads.preview import PreviewHead
from outlex.models.output_head import output_head
from outlex.proposals import DraftScores, Tli
from outlex.sampling import SamplingParams, probabilities
from outlex.vllm_plugin.cpu_expand import expand_to_tokens
from outlex.vllm_plugin.draft_head import head_of_rows
from outlex.vllm_plugin.log_law import log_law

HOT, WIDTH, D = [4, 0, 7], 9, 5


@pytest.mark.parametrize("name", all_proposals(HOT, WIDTH, d=D))
def test_the_softmax_is_the_proposal(name: str) -> None:
    proposal = all_proposals(HOT, WIDTH, d=D)[name]
    scores = scores_of(HOT, WIDTH, n=6, d=D)
    rows = log_law(scores, proposal, dtype=torch.float64)
    assert rows.shape == (6, WIDTH)
    expected = proposal.law(scores, SamplingParams()).dense()
    torch.testing.assert_close(rows.softmax(-1), expected, rtol=0, atol=1e-12)
    cold = [i for i in range(WIDTH) if i not in HOT]
    assert bool((rows.softmax(-1)[:, cold] > 0).any())  # otherwise this would be TLI


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_trimmed_rows_are_the_drafters_own_logits(dtype: torch.dtype) -> None:
    scores = scores_of(HOT, WIDTH, n=3, d=D, dtype=dtype)
    rows = log_law(scores, Tli(), dtype=dtype)
    assert rows.dtype == dtype
    assert torch.equal(rows[:, HOT], scores.logits)
    assert bool((rows.isneginf().sum(-1) == WIDTH - len(HOT)).all())
    torch.testing.assert_close(
        rows.double().softmax(-1),
        tli(DraftScores(logits=scores.logits.double(), token_map=scores.token_map, hidden=scores.hidden)),
    )


def test_the_dtype_is_the_one_that_the_cache_has() -> None:
    scores = scores_of(HOT, WIDTH, n=2, d=D, dtype=torch.float32)
    for proposal in (Tli(), all_proposals(HOT, WIDTH, d=D)["dense-kernel"]):
        assert log_law(scores, proposal, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("n", [1, 3])
def test_a_preview_covers_its_shortlist_with_exact_logits(n: int) -> None:
    linear, factor = small_preview()
    head = PreviewHead(linear, factor, n_target=1200, n_candidates=200, n_exact=20)
    hidden = states(n, 64, seed=4)
    rows = log_law(head.score(hidden), Tli(), dtype=torch.float32)
    assert rows.shape == (n, 1200)
    covered = ~rows.isneginf()
    assert covered.sum(-1).tolist() == [20] * n
    torch.testing.assert_close(rows[covered], linear.logits(hidden)[covered], rtol=1e-5, atol=1e-5)


def test_a_temperature_divides_tlis_logits_as_it_does_the_drafters() -> None:
    scores = scores_of(HOT, WIDTH, n=4, d=D)
    at_half = (log_law(scores, Tli(), dtype=torch.float64) / 0.5).softmax(-1)
    expected = scores.token_map.scatter(probabilities(scores.logits, SamplingParams(temperature=0.5)))
    torch.testing.assert_close(at_half, expected)


def test_a_preview_is_made_of_the_rows_that_vllm_loaded() -> None:
    drafter = tiny_pair()[1]
    linear = output_head(drafter)
    padded = torch.cat([linear.weight, torch.zeros(60, linear.weight.shape[1])])
    settings: dict[str, Any] = {"n_target": 260, "scale": 1.0, "softcap": 0.0}
    head = head_of_rows(fitted(), padded, None, **settings)
    assert log_law(head.score(states(1, 32)), Tli(), dtype=torch.float32).shape == (1, 260)
    with pytest.raises(MismatchError, match="other weights"):
        head_of_rows(fitted(), padded + 1, None, **settings)


@given(
    values=st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0]), min_size=1, max_size=6),
    data=st.data(),
    replace_to=st.sampled_from([1, 5]),
    dtype=st.sampled_from([torch.float32, torch.int64, torch.int32]),
)
def test_requests_are_expanded_to_tokens(values: list[float], data: Any, replace_to: int, dtype: torch.dtype) -> None:
    counts = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    given_values = torch.tensor(values).to(dtype)
    output = torch.full((sum(counts),), -7).to(dtype)
    expand_to_tokens(output, given_values, torch.tensor(counts, dtype=torch.int32).cumsum(0), 0, replace_to, 128)
    expected = [
        v if v != 0 else replace_to for v, n in zip(given_values.tolist(), counts, strict=True) for _ in range(n)
    ]
    assert output.tolist() == expected
