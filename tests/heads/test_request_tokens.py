"""A request's tokens against the slow obvious reference, and what was handed out staying as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outlex.errors import InputError
from outlex.heads.request_tokens import RequestTokens

N_TARGET = 12
STATIC = [3, 0]


def fresh(capacity: int, *, n_tokens: int = 10) -> RequestTokens:
    return RequestTokens(torch.tensor(STATIC), n_tokens=n_tokens, n_target=N_TARGET, capacity=capacity)


def reference(prompt: list[int], batches: list[list[int]], capacity: int) -> list[int]:
    """The tokens of the request, the first that joined in front."""
    unique = [t for i, t in enumerate(prompt) if t not in prompt[i + 1 :]]
    kept: list[int] = []
    for token_id in [*unique, *(t for batch in batches for t in batch)]:
        if token_id < 10 and token_id not in STATIC and token_id not in kept:
            kept = [*kept, token_id][-capacity:]
    return kept


TOKENS = st.integers(0, N_TARGET - 1)


@given(
    prompts=st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=3),
    batches=st.lists(st.lists(TOKENS, max_size=8), max_size=5),
    capacity=st.integers(6, 9),
)
def test_what_is_kept_is_what_joined_last(prompts: list[list[int]], batches: list[list[int]], capacity: int) -> None:
    tokens = fresh(capacity)
    rows = dict[int, int]()  # what a head that follows the changes holds
    for prompt in prompts:
        handed_out = []
        for n, batch in enumerate([prompt, *batches]):
            columns, ids = tokens.begin(prompt) if n == 0 else tokens.join(batch)
            rows |= dict(zip(columns.tolist(), ids.tolist(), strict=True))
            assert len(set(columns.tolist())) == len(columns)
            own = tokens.token_map.draft_to_target.tolist()
            assert own[:2] == STATIC
            assert sorted(own[2:]) == sorted(reference(prompt, batches[:n], capacity))
            assert own[2:] == [rows[column] for column in range(2, tokens.n_used)]
            handed_out.append((tokens.token_map, own))
        for token_map, own in handed_out:
            assert token_map.draft_to_target.tolist() == own
            assert token_map.to_draft(torch.arange(N_TARGET)).tolist() == [
                own.index(i) if i in own else -1 for i in range(N_TARGET)
            ]


def test_prompt_tokens_that_appear_latest_stay_longest() -> None:
    tokens = fresh(3)
    tokens.begin([5, 6, 5, 7])
    tokens.join([8])
    assert sorted(tokens.token_map.draft_to_target.tolist()[2:]) == [5, 7, 8]
    tokens.join([8, 7, 9])  # joining again moves nothing
    assert sorted(tokens.token_map.draft_to_target.tolist()[2:]) == [7, 8, 9]


def test_a_batch_that_does_not_fit_keeps_its_end() -> None:
    tokens = fresh(2)
    tokens.begin([5])
    columns, ids = tokens.join([6, 7, 8, 9])
    assert sorted(ids.tolist()) == [8, 9]
    assert sorted(columns.tolist()) == [2, 3]


def test_a_prompt_that_does_not_fit_is_refused_with_the_size_it_needs() -> None:
    tokens = fresh(3)
    tokens.begin([0, 3, 11, 5, 6, 7])  # static ones, and one without a row, take no place
    with pytest.raises(InputError, match="at least 4") as caught:
        tokens.begin([5, 6, 7, 8])
    assert "capacity=8" in str(caught.value)
    tokens.begin([5])
    assert tokens.token_map.draft_to_target.tolist() == [*STATIC, 5]


@pytest.mark.parametrize("capacity", [0, -1, True, 2.0])
def test_a_capacity_has_to_be_a_size(capacity: int) -> None:
    with pytest.raises(InputError, match="2048"):
        fresh(capacity)
