"""The preview head: which tokens it chooses, and that their scores are the whole head's."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from fitted_heads import random_head, small_preview, states
from hypothesis import given, settings
from hypothesis import strategies as st

from outlex.errors import InputError, MismatchError
from outlex.heads import preview
from outlex.heads.linear import FullHead, LinearHead
from outlex.heads.preview import PreviewHead
from outlex.heads.preview_fit import MIN_POSITIONS, PreviewSpace, Tier
from outlex.heads.preview_plan import affordable_plans
from outlex.heads.request_tokens import RequestTokens
from outlex.proposals import DraftScores, Tli, Vanilla
from outlex.sampling import SamplingParams
from outlex.vocab.shortlist import Shortlist


@pytest.fixture(
    autouse=True,
    scope="module",
    params=[
        "torch",
        pytest.param("numba", marks=pytest.mark.skipif(find_spec("numba") is None, reason="Numba is not installed")),
    ],
)
def chooser(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for both."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(preview, "_compiled_chooser", lambda: None)
        yield


def following(linear: LinearHead, n_target: int, *, capacity: int = 40, static: tuple[int, ...] = ()) -> RequestTokens:
    return RequestTokens(
        torch.tensor(static, dtype=torch.int64),
        n_tokens=min(linear.n_rows, n_target),
        n_target=n_target,
        capacity=capacity,
    )


def small_head(*, n_target: int = 1200, **options: Any) -> PreviewHead:
    linear, factor = small_preview()
    return PreviewHead(linear, factor, n_target=n_target, **{"n_candidates": 200, "n_exact": 30, **options})


def ids_of(scores: DraftScores) -> list[int]:
    ids: list[int] = scores.token_map.draft_to_target.tolist()
    return ids


# --- the law ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "kind", [{}, {"bias": True, "scale": 0.5}, {"bias": True, "scale": -2.0, "softcap": 30.0}], ids=str
)
@pytest.mark.parametrize("n_target", [250, 300, 320])
def test_with_all_tokens_it_is_the_whole_head(dtype: torch.dtype, kind: dict[str, Any], n_target: int) -> None:
    linear = random_head(300, 32, dtype=dtype, **kind)
    space = PreviewSpace.fit(linear, states(MIN_POSITIONS, 32), rank=32)
    factor = space.factor((Tier(n_rows=None, rank=32, storage="bf16"),), fine_rank=32)
    n_all = min(300, n_target)
    head = PreviewHead(linear, factor, n_target=n_target, n_candidates=n_all, n_exact=n_all)
    for hidden in states(3, 32, seed=7).to(dtype).unsqueeze(1):
        got, wanted = head.score(hidden), FullHead(linear, n_target=n_target).score(hidden)
        assert sorted(ids_of(got)) == list(range(n_all))
        for temperature in (0.0, 0.7, 1.0):
            if temperature == 0 and dtype == torch.bfloat16:
                continue  # logits tie in bfloat16, and which of them is the first depends on the order of the columns
            params = SamplingParams(temperature=temperature)
            # the same rows in another order: sums may differ in the last bits
            torch.testing.assert_close(
                Tli().law(got, params).dense(), Tli().law(wanted, params).dense(), atol=1e-6, rtol=1e-4
            )


@settings(max_examples=40)
@given(
    prompt=st.lists(st.integers(0, 1199), min_size=1, max_size=30),
    blocks=st.lists(st.lists(st.integers(0, 1199), min_size=1, max_size=4), max_size=4),
    capacity=st.sampled_from([30, 60]),
    static=st.sampled_from([(), (3, 990)]),
    n_target=st.sampled_from([1000, 1200, 1300]),
    seed=st.integers(0, 50),
)
def test_shortlists_hold_the_request_once_and_nothing_unknown(
    prompt: list[int], blocks: list[list[int]], capacity: int, static: tuple[int, ...], n_target: int, seed: int
) -> None:
    linear, _ = small_preview()
    always = following(linear, n_target, capacity=capacity, static=static)
    head = small_head(n_target=n_target, always=always, top_m=2)
    logits = torch.randn(4, n_target, generator=torch.Generator().manual_seed(seed))
    hidden = states(3, 64, seed=seed)
    head.begin(prompt)
    for verified in [None, *blocks]:
        if verified is not None:
            head.observe(verified, logits[: len(verified)])
        for row in hidden.unsqueeze(1):
            scores = head.score(row)
            ids = ids_of(scores)
            assert len(set(ids)) == len(ids) == 30 + always.n_used
            assert max(ids) < min(1200, n_target)
            assert {*static, *always.token_map.draft_to_target.tolist()} <= set(ids)
            if len(always.token_map.draft_to_target) < capacity:
                assert {i for i in prompt if i < min(1200, n_target)} <= set(ids)
            torch.testing.assert_close(scores.logits, linear.logits(row)[:, ids])


def test_a_new_request_knows_nothing_of_the_last() -> None:
    linear, _ = small_preview()
    head = small_head(always=following(linear, 1200))
    hidden = states(1, 64, seed=5)
    head.begin([7, 8])
    head.observe([900], torch.zeros(1, 1200).index_fill(1, torch.tensor([901, 902, 903]), 1.0))
    assert {7, 8, 900, 901, 902, 903} <= set(ids_of(head.score(hidden)))
    head.begin([9])
    fresh = small_head(always=following(linear, 1200))
    fresh.begin([9])
    assert ids_of(head.score(hidden)) == ids_of(fresh.score(hidden))
    assert head.bytes_per_step == fresh.bytes_per_step


def test_shortlists_that_were_handed_out_do_not_change() -> None:
    linear, _ = small_preview()
    head = small_head(always=following(linear, 1200, capacity=30), top_m=0)
    head.begin(list(range(30)))
    first = head.score(states(1, 64, seed=5))
    ids, logits = ids_of(first), first.logits.clone()
    for step in range(4):
        head.observe([600 + step], torch.zeros(1, 1200))
        head.score(states(1, 64, seed=6 + step))
    assert ids_of(first) == ids
    assert torch.equal(first.logits, logits)


@pytest.mark.parametrize("n_target", [1000, 1200, 1300])
@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("proposal", [Tli(), Vanilla()], ids=lambda p: p.name)
def test_several_positions_have_the_laws_of_each(n_target: int, follows: bool, proposal: Any) -> None:
    linear, _ = small_preview()
    head = small_head(n_target=n_target, always=following(linear, n_target) if follows else None)
    head.begin([5, 900, 33])
    hidden = states(12, 64, seed=3)
    together = head.score(hidden)
    assert together.logits.shape == (12, n_target)
    assert together.token_map.is_identity
    n_equal = 0
    for params in (SamplingParams(), SamplingParams(top_k=5), SamplingParams(temperature=0.7, top_p=0.9)):
        laws = proposal.law(together, params).dense()
        for i in range(12):
            alone = head.score(hidden[i : i + 1])
            law = proposal.law(alone, params).dense()[0]
            # a kernel may add up several positions in another order, and a token on the brink may go
            assert float((law - laws[i]).abs().sum()) < 0.05
            chosen = (together.logits[i] > -torch.inf).nonzero().squeeze(-1).tolist()
            n_equal += chosen == sorted(ids_of(alone))
    assert n_equal >= 30  # of 36


def test_the_best_tokens_are_found() -> None:
    linear, _ = small_preview()
    head = small_head()
    hidden = states(100, 64, seed=11)
    probs = linear.logits(hidden).softmax(-1)
    chosen = head.score(hidden).logits > -torch.inf
    best = probs.topk(30, dim=-1).values.sum(-1)
    assert float((probs * chosen).sum() / best.sum()) > 0.98
    assert float(chosen.gather(1, probs.argmax(-1, keepdim=True)).float().mean()) > 0.95


@pytest.mark.parametrize("n_rows", [33, 40, 200])
def test_small_heads_and_ties(n_rows: int) -> None:
    weight = torch.ones(n_rows, 32)  # every token scores the same everywhere
    linear = LinearHead(weight=weight)
    space = PreviewSpace.fit(linear, states(MIN_POSITIONS, 32), rank=32)
    for fine_rank in (0, 32):
        factor = space.factor((Tier(n_rows=1, rank=31), Tier(n_rows=None, rank=5, storage="bf16")), fine_rank=fine_rank)
        for n_candidates, n_exact in ((n_rows, n_rows), (20, 3), (1, 1)):
            head = PreviewHead(linear, factor, n_target=n_rows, n_candidates=n_candidates, n_exact=n_exact)
            ids = ids_of(head.score(states(1, 32, seed=1)))
            assert len(set(ids)) == len(ids) == n_exact


def test_a_target_that_lacks_most_rows() -> None:
    # the sample that tells the threshold may hold hardly a row that the target has
    linear, factor = small_preview()
    for n_target in (1, 31, 40):
        head = PreviewHead(linear, factor, n_target=n_target, n_candidates=n_target, n_exact=n_target)
        for row in states(20, 64, seed=1).unsqueeze(1):
            assert sorted(ids_of(head.score(row))) == list(range(n_target))


def test_broken_hidden_states_come_out_broken() -> None:
    # verification finds NaN in a law; what must not happen is a token that the target does not have, or a plain answer
    for n_target in (1000, 1200):
        head = small_head(n_target=n_target)
        for value in (torch.nan, torch.inf):
            for n in (1, 2):
                scores = head.score(torch.full((n, 64), value))
                assert max(ids_of(scores)) < n_target
                assert bool(Tli().law(scores, SamplingParams()).dense().isnan().any())


# --- bytes --------------------------------------------------------------------------------------------------


def test_bytes_are_those_that_a_step_reads() -> None:
    linear, factor = small_preview()
    basis = 64 * 64 * 2 + 64 * 4
    rotations = 4 * (63 * 64 + 31 * 32)
    coarse = 300 * (32 + 4) + 900 * (16 + 4)
    fine, ids = 200 * (64 + 4), 200 * 8
    preview = basis + rotations + coarse + fine + ids
    assert small_head().bytes_per_step == preview + 30 * 256
    head = small_head(always=following(linear, 1200))
    assert head.bytes_per_step == preview + 30 * 256
    head.begin([1, 2, 2, 3])
    assert head.bytes_per_step == preview + 33 * 256
    # rows that the target does not have are not read either
    n_lacking = int((factor.order[:300] >= 1000).sum())
    lacking = n_lacking * 36 + (200 - n_lacking) * 20
    assert small_head(n_target=1000).bytes_per_step == preview - lacking + 30 * 256


def test_a_plan_becomes_a_head_of_so_many_bytes() -> None:
    linear = random_head(5000, 96)
    space = PreviewSpace.fit(linear, states(400, 96), rank=96)
    for plan in affordable_plans(linear, max_bytes=int(0.3 * linear.n_bytes)):
        factor = space.factor(plan.tiers, fine_rank=plan.fine_rank)
        head = PreviewHead(linear, factor, n_target=5000, n_candidates=plan.n_candidates, n_exact=plan.n_exact)
        assert head.bytes_per_step == plan.n_bytes <= 0.3 * linear.n_bytes


@pytest.mark.parametrize(
    ("changes", "error", "needle"),
    [
        ({"n_exact": 0}, InputError, "choose other counts"),
        ({"n_exact": 201}, InputError, "choose other counts"),
        ({"n_candidates": 1201}, InputError, "<= 1200"),
        ({"n_target": 150}, InputError, "<= 150"),
        ({"top_m": -1, "always": following(small_preview()[0], 1200)}, InputError, "top_m=8"),
        ({"top_m": 1201, "always": following(small_preview()[0], 1200)}, InputError, "0 to 1200"),
        ({"prompt_logits": -1, "always": following(small_preview()[0], 1200)}, InputError, "prompt_logits=256"),
        ({"linear": random_head(1201, 64)}, MismatchError, "outlex fit-head"),
        ({"linear": random_head(1200, 32)}, MismatchError, "outlex fit-head"),
    ],
)
def test_heads_that_cannot_be_made(changes: dict[str, Any], error: type[Exception], needle: str) -> None:
    linear, factor = small_preview()
    options: dict[str, Any] = {"n_target": 1200, "n_candidates": 200, "n_exact": 30, **changes}
    with pytest.raises(error, match=needle):
        PreviewHead(options.pop("linear", linear), factor, **options)


def test_room_for_the_request_is_part_of_the_counts() -> None:
    linear, _ = small_preview()
    assert small_head(always=following(linear, 1200, capacity=1170)).follows_request
    with pytest.raises(InputError, match="1171 that are always there"):
        small_head(always=following(linear, 1200, capacity=1171))


def test_with_all_places_taken_the_others_are_still_there() -> None:
    linear, _ = small_preview()
    head = small_head(always=following(linear, 1200, capacity=1170), top_m=0)
    head.begin(list(range(1170)))
    assert sorted(ids_of(head.score(states(1, 64, seed=1)))) == list(range(1200))


# --- the map of a step --------------------------------------------------------------------------------------


@given(ids=st.lists(st.integers(0, 19), unique=True, max_size=8), asked=st.lists(st.integers(-1, 19), min_size=1))
def test_shortlist_maps(ids: list[int], asked: list[int]) -> None:
    one = Shortlist(torch.tensor(ids, dtype=torch.int64), n_target=20)
    found = one.to_draft(torch.tensor(asked)) if ids else torch.full((len(asked),), -1)
    assert found.tolist() == [ids.index(i) if i in ids else -1 for i in asked]
    if ids:
        assert one.to_target(torch.tensor([*range(len(ids)), -1])).tolist() == [*ids, -1]
    values = torch.rand(2, len(ids))
    wide = one.scatter(values)
    assert wide.shape == (2, 20)
    assert torch.equal(wide[:, ids], values)
    assert float(wide.sum()) == pytest.approx(float(values.sum()))
