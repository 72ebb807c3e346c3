"""Fitting previews: which ones a budget buys, what fitting is worth, and parts that cannot be made or put together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fitted_heads import random_head, small_preview, states
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outlex.errors import ArtifactError, InputError, NumericalError
from outlex.heads.linear import LinearHead
from outlex.heads.preview import PreviewHead
from outlex.heads.preview_fit import MIN_POSITIONS, PreviewFactor, PreviewSpace, Tier
from outlex.heads.preview_plan import PreviewPlan, affordable_plans
from outlex.heads.quantized_rows import QuantizedRows, quantize_rows, row_bytes

# --- plans --------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    n_rows=st.integers(4096, 12000), d=st.integers(60, 400), share=st.floats(0.01, 0.99), n_joining=st.integers(0, 300)
)
def test_plans_read_what_they_say_and_no_more_than_allowed(n_rows: int, d: int, share: float, n_joining: int) -> None:
    linear = LinearHead(weight=torch.zeros(n_rows, d, dtype=torch.bfloat16))
    max_bytes = int(share * linear.n_bytes)
    refusal: InputError | None = None
    plans: list[PreviewPlan] = []
    try:
        plans = affordable_plans(linear, max_bytes=max_bytes, n_joining=n_joining)
    except InputError as error:
        refusal = error
    if refusal is not None:
        assert refusal.next_step
        if "at least" in str(refusal.expected):
            # what it says is enough is enough, and was not there
            needed = float(str(refusal.expected).split()[2].rstrip("%")) / 100
            assert needed > share - 1e-4
            assert affordable_plans(linear, max_bytes=int(needed * linear.n_bytes) + 1, n_joining=n_joining)
    assert bool(plans) == (refusal is None)
    assert len(set(plans)) == len(plans)
    for plan in plans:
        assert plan.n_bytes + n_joining * d * 2 <= max_bytes
        counted = [tier.n_rows for tier in plan.tiers]
        assert counted[-1] is None
        assert 1 <= plan.n_exact <= plan.n_candidates <= n_rows


def test_rows_per_storage_are_what_plans_count() -> None:
    _, factor = small_preview()
    stages: list[QuantizedRows] = [*factor.coarse] + ([] if factor.fine is None else [factor.fine])
    assert [rows.row_bytes for rows in stages] == [row_bytes(63, "int4"), row_bytes(31, "int4"), row_bytes(64, "int8")]


@pytest.mark.parametrize("shape", [(300, 64), (100_000, 16), (4096, 40)])
def test_heads_too_small_for_a_preview(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="in-context"):
        affordable_plans(LinearHead(weight=torch.zeros(*shape)), max_bytes=10**9)


# --- fitting ------------------------------------------------------------------------------------------------


def test_fitting_twice_gives_the_same() -> None:
    linear = random_head(500, 64, bias=True)
    one, other = (
        PreviewSpace.fit(linear, states(300, 64), rank=64).factor((Tier(n_rows=None, rank=63),), fine_rank=64)
        for _ in range(2)
    )
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.basis, other.basis)
    assert torch.equal(one.order, other.order)
    assert one.fine is not None
    assert other.fine is not None
    for a, b in ((one.coarse[0], other.coarse[0]), (one.fine, other.fine)):
        assert torch.equal(a.codes, b.codes)
        assert torch.equal(a.scales, b.scales)
        assert torch.equal(a.offsets, b.offsets)


def plain_svd(linear: LinearHead, factor: PreviewFactor, rank: int) -> PreviewFactor:
    """Of the same size: leading singular directions of the rows, no mean."""
    directions = torch.linalg.svd(linear.weight, full_matrices=False).Vh[:rank]
    basis = directions.to(torch.bfloat16)
    matrix = linear.weight[factor.order] @ directions.T
    return PreviewFactor(
        mean=torch.zeros(linear.weight.shape[1]),
        basis=basis,
        order=factor.order,
        coarse=(quantize_rows(matrix, torch.zeros(linear.n_rows), "int4"),),
        fine=None,
        n_positions=factor.n_positions,
    )


def kept_mass(linear: LinearHead, factor: PreviewFactor, hidden: Tensor) -> float:
    head = PreviewHead(linear, factor, n_target=linear.n_rows, n_candidates=32, n_exact=32)
    chosen = head.score(hidden).logits > -torch.inf
    return float((linear.logits(hidden).softmax(-1) * chosen).sum(-1).mean())


def test_whitening_beats_a_plain_svd_at_equal_bytes() -> None:
    linear = random_head(3000, 128)
    factor = PreviewSpace.fit(linear, states(2000, 128), rank=31).factor((Tier(n_rows=None, rank=31),), fine_rank=0)
    hidden = states(200, 128, seed=1)
    own, plain = kept_mass(linear, factor, hidden), kept_mass(linear, plain_svd(linear, factor, 31), hidden)
    assert own > 0.9
    assert own > plain + 0.1


def test_hot_tokens_come_first() -> None:
    linear, factor = small_preview()
    probs = linear.logits(states(2000, 64, seed=21)).softmax(-1).mean(0)
    assert float(probs[factor.order[:300]].sum()) > 2 * float(probs[factor.order[300:600]].sum())


@pytest.mark.parametrize(
    ("hidden", "changes", "error", "needle"),
    [
        (states(MIN_POSITIONS - 1, 32), {}, InputError, "outlex trace"),
        (states(300, 33), {}, InputError, "not the target's"),
        (states(300, 32)[0], {}, InputError, "not the target's"),
        (states(300, 32), {"rank": 33}, InputError, "choose another rank"),
        (states(300, 32), {"rank": 0}, InputError, "choose another rank"),
        (states(300, 32), {"shrinkage": 1.0}, InputError, "shrinkage"),
        (states(300, 32), {"shrinkage": float("nan")}, InputError, "shrinkage"),
        (states(300, 32).index_fill(0, torch.tensor([7]), torch.nan), {}, NumericalError, "first 7"),
        (states(300, 32).index_fill(0, torch.tensor([9]), -torch.inf), {}, NumericalError, "--dtype float32"),
        (torch.ones(300, 32), {}, NumericalError, "trace more prompts"),
    ],
    ids=str,
)
def test_states_that_cannot_be_fitted_to(
    hidden: Tensor, changes: dict[str, Any], error: type[Exception], needle: str
) -> None:
    with pytest.raises(error, match=needle):
        PreviewSpace.fit(random_head(100, 32), hidden, **{"rank": 32, **changes})


@pytest.mark.parametrize(
    ("tiers", "fine_rank", "needle"),
    [
        ((Tier(n_rows=10, rank=31),), 0, "smaller tiers"),
        ((), 0, "smaller tiers"),
        ((Tier(n_rows=100, rank=31), Tier(n_rows=None, rank=31)), 0, "smaller tiers"),
        ((Tier(n_rows=0, rank=31), Tier(n_rows=None, rank=31)), 0, "smaller tiers"),
        ((Tier(n_rows=None, rank=31), Tier(n_rows=None, rank=31)), 0, "smaller tiers"),
        ((Tier(n_rows=None, rank=63),), 0, "larger rank"),
        ((Tier(n_rows=None, rank=31),), 64, "larger rank"),
        ((Tier(n_rows=None, rank=31),), -32, "larger rank"),
        ((Tier(n_rows=None, rank=-1),), 0, "larger rank"),
        ((Tier(n_rows=None, rank=30),), 0, "another storage or rank"),
        ((Tier(n_rows=None, rank=31),), 31, "another storage or rank"),
    ],
    ids=str,
)
def test_previews_that_cannot_be_cut(tiers: tuple[Tier, ...], fine_rank: int, needle: str) -> None:
    space = PreviewSpace.fit(random_head(100, 32), states(300, 32), rank=32)
    with pytest.raises(InputError, match=needle):
        space.factor(tiers, fine_rank=fine_rank)


def damaged(**changes: Any) -> PreviewFactor:
    _, factor = small_preview()
    return PreviewFactor(**{**vars(factor), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"coarse": ()},
        {"fine": quantize_rows(torch.zeros(1199, 64), torch.zeros(1199), "int8")},
        {"fine": quantize_rows(torch.zeros(1200, 63), torch.zeros(1200), "int4")},
        {"fine": quantize_rows(torch.zeros(1200, 96), torch.zeros(1200), "int8")},
        {"fine": None},  # the basis has directions that nothing needs
        {"order": torch.arange(1199)},
        {"order": torch.zeros(1200, dtype=torch.int64)},
        {"order": torch.arange(1200) + 1},
        {"order": torch.arange(1200).to(torch.int32)},
        {"order": torch.arange(1200).unsqueeze(-1)},
        {"order": torch.tensor(3)},
        {"mean": torch.zeros(63)},
        {"mean": torch.zeros(64, 1)},
        {"mean": torch.tensor(0.0)},
        {"mean": torch.zeros(64, dtype=torch.float64)},
        {"basis": torch.zeros(64, 64)},
        {"basis": torch.zeros(63, 64, dtype=torch.bfloat16)},
        {"basis": torch.zeros(64, dtype=torch.bfloat16)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_that_do_not_fit_each_other(changes: dict[str, Any]) -> None:
    assert damaged().n_rows == 1200
    with pytest.raises(ArtifactError, match="outlex fit-head"):
        damaged(**changes)
