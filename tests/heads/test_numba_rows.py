"""What Numba chooses, next to sorting everything and to torch's kernels; and what happens without Numba."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from fitted_heads import random_head, small_preview, states
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from outlex.heads import preview
from outlex.heads.linear import LinearHead
from outlex.heads.preview import PreviewHead
from outlex.heads.preview_fit import PreviewFactor, PreviewSpace, Tier
from outlex.heads.quantized_rows import INT4_RANKS, QuantizedRows, RowScorer, quantize_rows
from outlex.heads.request_tokens import RequestTokens
from outlex.proposals import Tli
from outlex.sampling import SamplingParams

needs_numba = pytest.mark.skipif(
    find_spec("numba") is None, reason="Numba is not installed (pip install 'outlex[numba]')"
)
CPU = torch.device("cpu")
BF16 = 2.0**-8  # relative error of one rounding, at most


def matrix(n: int, rank: int, seed: int) -> Tensor:
    """Columns as a preview has them: large ones first."""
    return torch.randn(n, rank, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0.5, -0.5, rank)


def parts(tiers: list[tuple[int, int]], fine_rank: int, *, d: int = 64, seed: int = 0) -> dict[str, Any]:
    """Stages of random rows, what a chooser is made of."""
    n = sum(n_rows for n_rows, _ in tiers)
    generator = torch.Generator().manual_seed(seed)
    rank = max(fine_rank, *(rank for _, rank in tiers))
    rows, offsets = matrix(n, rank, seed), torch.randn(n, generator=generator)
    coarse, start = [], 0
    for n_rows, own in tiers:
        part = slice(start, start + n_rows)
        coarse.append(quantize_rows(rows[part, :own], offsets[part], "int4"))
        start += n_rows
    return {
        "mean": torch.randn(d, generator=generator),
        "basis": (torch.randn(rank, d, generator=generator) / d**0.5).to(torch.bfloat16),
        "order": torch.randperm(n, generator=generator),
        "coarse": coarse,
        "fine": quantize_rows(rows[:, :fine_rank], offsets, "int8"),
        "weight": torch.randn(n, d, generator=generator).to(torch.bfloat16),
    }


def chooser(stages: dict[str, Any], n_candidates: int) -> Any:
    from outlex.heads.numba_rows import RowChooser

    return RowChooser(**stages, n_candidates=n_candidates)


def position_z(stages: dict[str, Any], hidden: Tensor) -> Tensor:
    return F.linear((hidden.float() - stages["mean"]).to(torch.bfloat16), stages["basis"]).float()


def z_of(made: Any) -> Tensor:
    return torch.from_numpy(made._scratch.z.copy())


def first_scores(made: Any) -> Tensor:
    """Of the last position, of all rows in their order: float32 [n]."""
    scores = made._scratch.scores
    return torch.cat([torch.from_numpy(scores[slot : slot + n].copy()) for *_, slot, _, n in made._stages.blocks])


def candidates_of(made: Any) -> Tensor:
    """Rows that the second stage scored at the last position."""
    pairs = zip(made._scratch.rows, made._scratch.counts, strict=True)
    return torch.cat([torch.from_numpy(own[:n].copy()) for own, n in pairs])


def second_scores(fine: QuantizedRows, made: Any) -> Tensor:
    """Of all rows at the last position, with its z in steps: float64 [n]."""
    z = z_of(made)[: fine.rank].double()
    products = fine.codes.double() @ (torch.from_numpy(made._scratch.levels).double() * z.abs().max() / 32767)
    return products * fine.scales.double() + fine.offsets.double()


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- scores -------------------------------------------------------------------------------------------------


@needs_numba
@settings(max_examples=25, deadline=None)
@given(
    rank=st.sampled_from(INT4_RANKS),
    second=st.sampled_from([None, 31, 63]),
    n=st.integers(1, 1700),
    fine_rank=st.sampled_from([32, 96, 224]),
    seed=st.integers(0, 99),
)
def test_first_scores_are_those_of_torch(rank: int, second: int | None, n: int, fine_rank: int, seed: int) -> None:
    tiers = [(n, rank), *([] if second is None else [(77, second)])]
    stages = parts(tiers, fine_rank, seed=seed)
    hidden = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
    made = chooser(stages, 1)
    made.shortlist(hidden, 1)
    z = position_z(stages, hidden)
    torch.testing.assert_close(z_of(made), z[0], rtol=2 * BF16, atol=1e-4)
    found, start = first_scores(made), 0
    for rows in stages["coarse"]:
        wanted = RowScorer(rows, CPU).scores(z[:, : rows.rank])[0].float()
        # z and z' may round to neighbours, and the kernel of torch rounds its result
        atol = 6 * BF16 * float(wanted.abs().max())
        torch.testing.assert_close(found[start : start + rows.n_rows], wanted, rtol=2 * BF16, atol=atol)
        start += rows.n_rows
    assert start == len(found)


@needs_numba
@pytest.mark.parametrize(("n_given", "n"), [(0, 1), (5, 7), (0, 300), (300, 0)])
def test_products_are_those_of_the_whole_head(n_given: int, n: int) -> None:
    stages = parts([(300, 31)], 32)
    given = torch.randperm(300, generator=torch.Generator().manual_seed(1))[:n_given]
    left_out = torch.zeros(300, dtype=torch.bool).index_fill_(0, given, True)
    hidden = torch.randn(1, 64, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    ids, products = chooser(stages, 300).shortlist(hidden, n, given=given, left_out=left_out)
    assert ids[:n_given].equal(given)
    assert len(set(ids.tolist())) == len(ids) == n_given + n
    wanted = hidden.double() @ stages["weight"][ids].double().T
    torch.testing.assert_close(products.double(), wanted, rtol=1e-5, atol=1e-5)
    stages["weight"] = stages["weight"].float()
    alone, nothing = chooser(stages, 300).shortlist(hidden, n, given=given, left_out=left_out)
    assert nothing is None
    assert alone.equal(ids)


# --- choice -------------------------------------------------------------------------------------------------


@needs_numba
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 1300), min_size=1, max_size=3),
    ranks=st.permutations(INT4_RANKS[:3]),
    n=st.integers(1, 300),
    n_left_out=st.integers(0, 200),
    n_threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_with_all_rows_candidates_the_best_are_found(
    sizes: list[int], ranks: list[int], n: int, n_left_out: int, n_threads: int, seed: int
) -> None:
    stages = parts(list(zip(sizes, ranks, strict=False)), 96, seed=seed)
    n_rows = sum(sizes)
    n_left_out = min(n_left_out, n_rows - 1)
    n = min(n, n_rows - n_left_out)
    left_out = torch.zeros(n_rows, dtype=torch.bool)
    left_out[torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))[:n_left_out]] = True
    hidden = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
    # the threshold of a sample is about right only; what is asked for cannot be had without the second try
    made = chooser(stages, n_rows)
    with threads(n_threads):
        ids, _ = made.shortlist(hidden, n, left_out=left_out if n_left_out else None)
    assert ids.dtype == torch.int64
    assert len(set(ids.tolist())) == len(ids) == n
    assert not bool(left_out[ids].any())
    row_of = stages["order"].argsort()
    # of the candidates, which the chooser names, the best are there
    scores = second_scores(stages["fine"], made)
    candidates = candidates_of(made)
    assert len(set(candidates.tolist())) == len(candidates) >= n
    assert not bool(left_out[stages["order"][candidates]].any())
    worst = scores[row_of[ids]].min()
    better = (scores[candidates] > worst + 1e-4).sum()
    assert int(better) <= n
    assert set(row_of[ids].tolist()) <= set(candidates.tolist())
    kth = scores[candidates].topk(n).values[-1]
    assert float(worst) >= float(kth) - 1e-4


@needs_numba
@pytest.mark.parametrize("n_candidates", [200, 1000, 4000])
def test_there_are_about_as_many_candidates_as_asked_for(n_candidates: int) -> None:
    stages = parts([(3001, 63), (5013, 31)], 64)
    made = chooser(stages, n_candidates)
    for seed in range(5):
        made.shortlist(torch.randn(1, 64, generator=torch.Generator().manual_seed(seed)), 50)
        candidates = candidates_of(made)
        assert 0.6 * n_candidates < len(candidates) < 1.5 * n_candidates
        scores = first_scores(made)
        assert float(scores[candidates].min()) == float(scores.topk(len(candidates)).values[-1])


@needs_numba
def test_one_thread_and_two_choose_the_same() -> None:
    for stages in (parts([(900, 63), (2000, 31)], 64), parts([(70, 127)], 32)):
        made = chooser(stages, 60)
        for seed in range(10):
            hidden = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
            with threads(1):
                alone = made.shortlist(hidden, 40)
            with threads(2):
                together = made.shortlist(hidden, 40)
            assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


@needs_numba
def test_rows_that_tie_and_states_that_are_broken() -> None:
    stages = parts([(200, 31)], 32)
    stages["fine"] = quantize_rows(torch.ones(200, 32), torch.ones(200), "int8")
    stages["coarse"] = [quantize_rows(torch.ones(200, 31), torch.ones(200), "int4")]
    left_out = torch.arange(200) < 150
    for value in (1.0, 0.0, torch.nan, torch.inf, -torch.inf, 1e38):
        ids, _ = chooser(stages, 16).shortlist(torch.full((1, 64), value), 50, left_out=left_out)
        assert sorted(ids.tolist()) == list(range(150, 200))


# --- heads --------------------------------------------------------------------------------------------------


def head_of(
    linear: LinearHead, factor: PreviewFactor, n_target: int, *, compiled: bool, follows: bool = False
) -> PreviewHead:
    always = None
    if follows:
        n_tokens = min(linear.n_rows, n_target)
        always = RequestTokens(torch.tensor([3, 70]), n_tokens=n_tokens, n_target=n_target, capacity=50)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(preview, "_compiled_chooser", lambda: None)
        head = PreviewHead(linear, factor, n_target=n_target, n_candidates=200, n_exact=60, always=always)
    assert (head._chooser is not None) == compiled
    return head


@needs_numba
@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("n_target", [1000, 1200, 1300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_head_with_numba_is_the_one_without(dtype: torch.dtype, n_target: int, follows: bool) -> None:
    linear, factor = small_preview()
    linear = LinearHead(weight=linear.weight.to(dtype), scale=0.5, softcap=20.0)
    plain, compiled = (head_of(linear, factor, n_target, compiled=which, follows=follows) for which in (False, True))
    for head in (plain, compiled):
        head.begin([5, 900, 33])
    assert plain.bytes_per_step == compiled.bytes_per_step
    hidden = states(20, 64, seed=3).to(dtype)
    n_common = 0
    for row in torch.split(hidden, 1):
        a, b = plain.score(row), compiled.score(row)
        assert b.logits.dtype == dtype
        assert a.logits.shape == b.logits.shape
        dense = [Tli().law(scores, SamplingParams()).dense() for scores in (a, b)]
        common = set(a.token_map.draft_to_target.tolist()) & set(b.token_map.draft_to_target.tolist())
        n_common += len(common)
        # tokens on the brink may go, and they are improbable
        assert float((dense[0] - dense[1]).abs().sum()) < 0.05
        torch.testing.assert_close(b.logits, linear.logits(row)[:, b.token_map.draft_to_target])
    assert n_common > 0.97 * 20 * a.logits.shape[1]
    together = compiled.score(hidden)
    for i, row in enumerate(torch.split(hidden, 1)):
        ids = compiled.score(row).token_map.draft_to_target
        assert (together.logits[i] > -torch.inf).nonzero().squeeze(-1).tolist() == sorted(ids.tolist())


@needs_numba
def test_other_stages_are_torchs() -> None:
    linear = random_head(300, 64)
    space = PreviewSpace.fit(linear, states(300, 64), rank=64)
    for tiers, fine_rank in (
        ((Tier(n_rows=None, rank=31),), 0),
        ((Tier(n_rows=10, rank=32, storage="int8"), Tier(n_rows=None, rank=31)), 64),
        ((Tier(n_rows=None, rank=40, storage="bf16"),), 64),
    ):
        head = PreviewHead(linear, space.factor(tiers, fine_rank=fine_rank), n_target=300, n_candidates=50, n_exact=9)
        assert head._chooser is None
        assert head.score(states(1, 64)).logits.shape == (1, 9)


# --- without Numba ------------------------------------------------------------------------------------------


def test_without_numba_torch_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = preview._compiled_chooser.__wrapped__  # past its cache
    monkeypatch.setattr(preview, "find_spec", lambda name: None)
    assert found() is None


@needs_numba
def test_a_numba_that_does_not_run_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from outlex.heads import numba_rows

    def fails() -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba_rows, "try_it", fails)
    found = preview._compiled_chooser.__wrapped__
    with pytest.warns(UserWarning, match="twice as long without it.*no locator available"):
        assert found() is None


@needs_numba
def test_numba_is_not_imported_early_and_leaves_torchs_threads_alone() -> None:
    script = """
import sys, torch, outlex.heads.preview as preview
assert "numba" not in sys.modules
torch.set_num_threads(1)
assert preview._compiled_chooser() is not None
assert torch.get_num_threads() == 1
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
