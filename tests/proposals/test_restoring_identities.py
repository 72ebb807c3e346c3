"""Identities and bounds that the family of proposals has to keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proposal_builders import all_proposals, calibration, cold_rows, laws, pure_proposals, scores_of, tli
from torch import Tensor

from outlex.affinity import CoOccurrence, Covariance, SparseDistributions, StringPrefix
from outlex.errors import InputError
from outlex.proposals import (
    Clusters,
    ColdRow,
    ColdRows,
    DenseKernel,
    DraftScores,
    Mixed,
    RdkExact,
    RdkFirstOrder,
    SparseKernel,
    Tli,
    Vanilla,
)
from outlex.sampling import SamplingParams
from outlex.verify import overlap
from outlex.vocab.token_map import TokenMap

HOT, N, D = [4, 1, 6], 7, 4
PURE = pure_proposals(HOT, N, d=D)
PARAMS = SamplingParams()


@pytest.mark.parametrize("name", PURE)
def test_lambda_zero_is_tli_and_one_is_the_proposal(name: str) -> None:
    scores = scores_of(HOT, N, n=6, d=D)
    none, all_of_it = (Mixed(inner=PURE[name], weights=((share,),)).law(scores, PARAMS) for share in (0.0, 1.0))
    ids = torch.tensor([0, 1, 2, 4, 5, 6])
    wanted = Tli().law(scores, PARAMS)
    assert torch.equal(none.dense(), wanted.dense())
    assert torch.equal(none.prob_of(ids), wanted.prob_of(ids))
    torch.testing.assert_close(all_of_it.dense(), PURE[name].law(scores, PARAMS).dense(), rtol=0, atol=1e-15)


def test_the_mixture_is_the_mixture() -> None:
    scores = scores_of(HOT, N, n=6, d=D)
    for inner in PURE.values():
        law = Mixed(inner=inner, weights=((0.3,),)).law(scores, PARAMS)
        wanted = 0.7 * tli(scores) + 0.3 * inner.law(scores, PARAMS).dense()
        torch.testing.assert_close(law.dense(), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["dense-kernel", "rdk-exact", "rdk-prefix", "rdk-first-order", "sparse-kernel"])
def test_a_trimmed_head_of_the_whole_vocabulary_is_the_untrimmed_one(name: str) -> None:
    order = [2, 0, 5, 1, 6, 3, 4]
    untrimmed = replace(scores_of(list(range(N)), N, n=3, d=D), token_map=TokenMap.identity(N, N))
    trimmed = replace(untrimmed, logits=untrimmed.logits[:, order], token_map=scores_of(order, N, n=1, d=D).token_map)
    for proposal in (PURE[name], Mixed(inner=PURE[name], weights=((0.4,),)), Tli(), Vanilla()):
        one, other = (proposal.law(scores, PARAMS).dense() for scores in (trimmed, untrimmed))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_where_nothing_is_cold_there_is_nothing_to_restore() -> None:
    with pytest.raises(InputError, match="use TLI"):
        cold_rows(list(range(N)), N, d=D)


def test_the_identity_kernel_is_tli() -> None:
    scores = scores_of(HOT, N, n=6, d=D)
    ids = torch.tensor(HOT)
    digits = [b"%d" % i for i in range(N)]
    identities = (
        DenseKernel(matrix=torch.eye(N, dtype=torch.float64)),
        SparseKernel(sources=ids, neighbours=ids.unsqueeze(-1), weights=torch.ones(3, 1), n_target=N),
        # nobody begins with anybody else, and no token has any affinity at all
        RdkExact(affinity=StringPrefix.of_bytes(digits, digits), temperature=1),
        RdkExact(affinity=StringPrefix.of_bytes([None] * N, [None] * N), temperature=1),
    )
    for identity in identities:
        torch.testing.assert_close(identity.law(scores, PARAMS).dense(), tli(scores), rtol=0, atol=1e-15)


def test_a_kernel_whose_rows_are_all_p_accepts_everything() -> None:
    p = laws(1, N, seed=20)
    scores = scores_of(HOT, N, n=5, d=D)
    everywhere = torch.arange(N).expand(3, -1)
    one_context = SparseDistributions(ids=torch.arange(N).unsqueeze(0), probs=p, width=N)
    for kernel in (
        DenseKernel(matrix=p.expand(N, -1)),
        SparseKernel(sources=torch.tensor(HOT), neighbours=everywhere, weights=p.expand(3, -1), n_target=N),
        RdkExact(affinity=CoOccurrence(given=one_context, then=one_context), temperature=1.0),
    ):
        beta = overlap(p.expand(5, -1), kernel.law(scores, PARAMS).dense())
        torch.testing.assert_close(beta, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-14)
    # and the ceiling of everything that proposes hot tokens alone is lower
    assert float(overlap(p, tli(scores)[:1])) < float(p[0, HOT].sum()) < 0.999


@given(seed=st.integers(0, 10**6), n_hot=st.integers(1, 6))
def test_without_restoring_nothing_beats_the_mass_of_the_hot_tokens(seed: int, n_hot: int) -> None:
    p, hot = laws(4, N, seed=seed), list(range(n_hot))
    oov_mass = 1 - p[:, hot].sum(-1)
    for proposal in (Tli(), Vanilla()):
        beta = overlap(p, proposal.law(scores_of(hot, N, n=4, d=D, seed=seed + 1), PARAMS).dense())
        assert bool((beta <= 1 - oov_mass + 1e-12).all())


# --- RDK ---------------------------------------------------------------------------------------------------


def softmax_kernel(p: Tensor, temperature: float) -> Tensor:
    """M of RDK by its definition: the softmax of the covariance."""
    centred = p - p.mean(0)
    return (centred.T @ centred / len(p) / temperature).softmax(-1)


@pytest.mark.parametrize("block", [1, 2, 64])
def test_exact_rdk_is_the_definition_dense_and_by_blocks(block: int) -> None:
    p = calibration(N, n_kept=N)
    whole = torch.zeros(p.n, N, dtype=torch.float64).scatter_(1, p.ids, p.probs)
    scores = scores_of(HOT, N, n=6, d=D)
    rdk = RdkExact(affinity=Covariance(distributions=p), temperature=0.01, block=block)
    wanted = tli(scores) @ softmax_kernel(whole, 0.01)
    torch.testing.assert_close(rdk.law(scores, PARAMS).dense(), wanted, rtol=0, atol=1e-13)
    torch.testing.assert_close(rdk.as_dense().law(scores, PARAMS).dense(), wanted, rtol=0, atol=1e-13)


def test_a_kernel_too_wide_to_keep_is_refused() -> None:
    rdk = RdkExact(affinity=Covariance(distributions=calibration(10_000)), temperature=0.01)
    with pytest.raises(InputError, match="a block at a time"):
        rdk.as_dense()


def test_first_order_rdk_is_its_formula() -> None:
    p = calibration(N)
    whole = torch.zeros(p.n, N, dtype=torch.float64).scatter_(1, p.ids, p.probs)
    assert bool((whole.sum(0) == 0).any())  # tokens that are in no distribution share one law
    scores = scores_of(HOT, N, n=6, d=D)
    omega = (whole - whole.mean(0)).T @ (whole - whole.mean(0)) / p.n
    for temperature in (1.0, 0.02, 1e-4):
        heights = (1 + tli(scores) @ omega / temperature).clamp_min(0)
        law = RdkFirstOrder(distributions=p, temperature=temperature).law(scores, PARAMS)
        torch.testing.assert_close(law.dense(), heights / heights.sum(-1, keepdim=True), rtol=0, atol=1e-13)
    assert float(heights.min()) == 0  # the clamp was on the path


def test_first_order_rdk_goes_to_the_exact_one_with_the_square_of_the_temperature() -> None:
    scores, p = scores_of(HOT, N, n=6, d=D), calibration(N)
    affinity = Covariance(distributions=p)
    gaps = []
    for temperature in (1.0, 10.0, 100.0):
        exact = RdkExact(affinity=affinity, temperature=temperature).law(scores, PARAMS).dense()
        first = RdkFirstOrder(distributions=p, temperature=temperature).law(scores, PARAMS).dense()
        gaps.append(float((exact - first).abs().max()))
    assert gaps[0] < 0.01
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.2)
    assert gaps[1] / gaps[2] == pytest.approx(100, rel=0.05)
    assert gaps[2] > 1e-15  # not zero by accident


# --- mass of the cold tokens -------------------------------------------------------------------------------


def exact_share(cold: ColdRows, scores: DraftScores, temperature: float) -> Tensor:
    """Mass that the untrimmed drafter has on the cold tokens, [n]."""
    rows = cold.rows(0, len(cold.ids))
    z = torch.cat([scores.hidden, torch.ones(len(scores.hidden), 1, dtype=torch.float64)], -1) @ rows.T
    whole = torch.cat([scores.logits, z], -1) / temperature
    return whole.softmax(-1)[:, scores.logits.shape[-1] :].sum(-1)


@given(seed=st.integers(0, 10**6), temperature=st.floats(0.2, 3))
def test_jensen_is_a_lower_bound_and_clusters_only_tighten_it(seed: int, temperature: float) -> None:
    hot, params = [0, 3], SamplingParams(temperature=temperature)
    cold, scores = cold_rows(hot, 20, d=D), scores_of(hot, 20, n=8, d=D, seed=seed)
    exact = exact_share(cold, scores, temperature)
    one = ColdRow.fit(cold, n_target=20).cold_mass(scores, params)
    several = Clusters.fit(cold, n_target=20, n_clusters=4, seed=seed).cold_mass(scores, params)
    each = Clusters.fit(cold, n_target=20, n_clusters=18, seed=seed).cold_mass(scores, params)
    assert bool((one <= several + 1e-12).all())
    assert bool((several <= exact + 1e-12).all())
    torch.testing.assert_close(each, exact, rtol=0, atol=1e-12)  # a cluster of one row has nothing to bound


def test_the_second_order_repairs_most_of_what_jensen_loses() -> None:
    n_target, hot = 4000, [0, 1, 2]
    cold, scores = cold_rows(hot, n_target, d=D), scores_of(hot, n_target, n=50, d=D)
    exact = exact_share(cold, scores, 1.0).log()
    jensen = ColdRow.fit(cold, n_target=n_target).cold_mass(scores, PARAMS).log()
    repaired = ColdRow.fit(cold, n_target=n_target, rank=D + 1).cold_mass(scores, PARAMS).log()
    assert float((repaired - exact).abs().mean()) < 0.2 * float((jensen - exact).abs().mean())
    # half of the directions repair a part
    partly = ColdRow.fit(cold, n_target=n_target, rank=2).cold_mass(scores, PARAMS).log()
    assert bool((jensen < partly).all())
    assert bool((partly < repaired).all())


@pytest.mark.parametrize("rank", [0, 2])
def test_temperature_divides_hidden_states_and_logits_alike(rank: int) -> None:
    scores = scores_of(HOT, N, n=8, d=D)
    proposal = Clusters.fit(replace(cold_rows(HOT, N, d=D), bias=None), n_target=N, n_clusters=2, rank=rank)
    hotter = replace(scores, logits=scores.logits / 2, hidden=scores.hidden / 2)
    one = proposal.law(scores, SamplingParams(temperature=2.0)).dense()
    torch.testing.assert_close(one, proposal.law(hotter, PARAMS).dense(), rtol=0, atol=1e-14)


def test_the_head_s_scale_is_part_of_the_cold_logits() -> None:
    cold, scores = cold_rows(HOT, N, d=D), scores_of(HOT, N, n=8, d=D)
    assert cold.bias is not None
    scaled = replace(cold, weight=cold.weight * 3, bias=cold.bias * 3)
    one, other = (
        ColdRow.fit(each, n_target=N, rank=2).law(scores, PARAMS).dense() for each in (scaled, replace(cold, scale=3))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_the_prior_spreads_the_cold_mass_and_zeros_stay_zero() -> None:
    cold, scores = cold_rows(HOT, N, d=D), scores_of(HOT, N, n=8, d=D)
    assert cold.prior is not None
    proposal = ColdRow.fit(cold, n_target=N)
    mass = proposal.cold_mass(scores, PARAMS).unsqueeze(-1)
    dense = proposal.law(scores, PARAMS).dense()
    prior = cold.prior[cold.ids] / cold.prior[cold.ids].sum()
    torch.testing.assert_close(dense[:, cold.ids], mass * prior, rtol=0, atol=1e-15)
    torch.testing.assert_close(dense[:, HOT], tli(scores)[:, HOT] * (1 - mass), rtol=0, atol=1e-15)
    assert float(dense[:, cold.ids[-1]].abs().max()) == 0


def test_greedy_drafting_restores_no_cold_mass() -> None:
    scores, greedy = scores_of(HOT, N, n=8, d=D), SamplingParams(temperature=0)
    for name in ("cold-row", "cold-row-2nd-order", "clusters"):
        assert torch.equal(PURE[name].law(scores, greedy).dense(), Tli().law(scores, greedy).dense())


def test_names_are_distinct_and_say_what_is_mixed() -> None:
    proposals = all_proposals(HOT, N, d=D)
    assert proposals["mixed learned"].name == "learned+tli"
    assert len({PURE[name].name for name in PURE}) == len(PURE) - 1  # rdk-prefix is rdk-exact with another prior
