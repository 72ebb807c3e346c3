"""Affinity priors against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proposal_builders import calibration, laws
from torch import Tensor

from outlex.affinity import (
    Affinity,
    CoOccurrence,
    Correlation,
    Covariance,
    HeadCosine,
    SparseDistributions,
    StringPrefix,
    nearest,
)
from outlex.errors import InputError, MismatchError, VocabError

N = 9
ALL = torch.arange(N)


def whole(p: SparseDistributions) -> Tensor:
    return torch.zeros(p.n, p.width, dtype=p.probs.dtype).scatter_add_(1, p.ids, p.probs)


def test_sparse_distributions_are_the_most_probable_tokens_renormalised() -> None:
    dense = laws(5, N, seed=1)
    kept = whole(SparseDistributions.from_dense(dense, n_kept=4))
    top = dense.topk(4).indices
    wanted = torch.zeros_like(dense).scatter(1, top, dense.gather(1, top))
    torch.testing.assert_close(kept, wanted / wanted.sum(-1, keepdim=True))
    assert SparseDistributions.from_dense(dense, n_kept=100).ids.shape == (5, N)


def test_products_with_sparse_distributions_are_those_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    p = calibration(N)
    x, y = laws(7, N, seed=2), laws(7, p.n, seed=3)
    for elements in (1 << 24, 3 * p.ids.numel(), 1):  # all positions at once, three, one
        monkeypatch.setattr("outlex.affinity.distributions._ELEMENTS_AT_ONCE", elements)
        torch.testing.assert_close(p.project(x), x @ whole(p).T)
        torch.testing.assert_close(p.combine(y), y @ whole(p))
    torch.testing.assert_close(p.mean(), whole(p).mean(0))
    torch.testing.assert_close(p.columns(torch.tensor([3, 0])), whole(p).T[[3, 0]])


def test_a_token_that_comes_twice_in_a_row_counts_twice() -> None:
    p = SparseDistributions(ids=torch.tensor([[2, 2, 0]]), probs=torch.tensor([[0.2, 0.2, 0.4]]), width=3)
    assert p.mean().tolist() == pytest.approx([0.5, 0.0, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_the_covariance_are_numpys_and_sum_to_zero(dtype: torch.dtype) -> None:
    p = calibration(N, dtype=dtype)
    rows = Covariance(distributions=p).rows(ALL)
    tolerance = 1e-7 if dtype == torch.float32 else 1e-15
    torch.testing.assert_close(rows, torch.cov(whole(p).T, correction=0), rtol=0, atol=tolerance)
    torch.testing.assert_close(rows.sum(-1), torch.zeros(N, dtype=dtype), rtol=0, atol=tolerance)
    torch.testing.assert_close(rows, rows.T, rtol=0, atol=tolerance)


def test_rows_of_the_correlation_are_numpys_and_zero_for_tokens_that_never_vary() -> None:
    p = calibration(N)
    rows = Correlation(distributions=p).rows(ALL)
    never = whole(p).sum(0) == 0
    assert bool(never.any())
    seen = torch.corrcoef(whole(p).T[~never])
    torch.testing.assert_close(rows[~never][:, ~never], seen, rtol=0, atol=1e-12)
    assert float(rows[never].abs().max()) == float(rows[:, never].abs().max()) == 0.0


def test_co_occurrence_is_the_log_of_the_mean_law_where_the_drafter_says_it() -> None:
    q, p = calibration(5), calibration(N)
    rows = CoOccurrence(given=q, then=p).rows(torch.arange(5))
    joint = whole(q).T @ whole(p)
    wanted = joint / joint.sum(-1, keepdim=True)
    said = whole(q).sum(0) > 0
    torch.testing.assert_close(rows[said].exp(), wanted[said], rtol=0, atol=1e-12)
    assert bool((rows[~said] == -torch.inf).all())
    assert int((~said).sum()) == 1
    with pytest.raises(MismatchError, match="same rows of the traces"):
        CoOccurrence(given=calibration(5, n=3), then=p)


def test_head_cosine_is_the_cosine_in_float32() -> None:
    weight = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    rows = HeadCosine(weight=weight.to(torch.bfloat16)).rows(ALL)
    rounded = weight.to(torch.bfloat16).float()
    wanted = torch.nn.functional.cosine_similarity(rounded.unsqueeze(0), rounded.unsqueeze(1), dim=-1)
    torch.testing.assert_close(rows, wanted, rtol=0, atol=1e-6)
    assert float(rows[2].abs().max()) == 0.0
    with pytest.raises(InputError, match="without quantisation"):
        HeadCosine(weight=torch.zeros(3, 3, dtype=torch.int8))


@given(
    rows=st.lists(st.one_of(st.none(), st.binary(max_size=3)), min_size=1, max_size=8),
    target=st.lists(st.one_of(st.none(), st.binary(max_size=3), st.sampled_from([b"\xff", b"\xff\xff", b"a\xff\x01"]))),
)
def test_string_prefix_is_startswith(rows: list[bytes | None], target: list[bytes | None]) -> None:
    target = [*target, b"a", b"\xff"]
    rows = [*rows, b"\xff", b"a\xff", b"a"]
    prior = torch.rand(len(target) + 2, generator=torch.Generator().manual_seed(0)) + 0.1  # two rows of padding
    affinity = StringPrefix.of_bytes(rows, target, prior=prior)
    got = affinity.rows(torch.arange(len(rows)))
    for i, start in enumerate(rows):
        for j, text in enumerate([*target, None, None]):
            matches = bool(start) and bool(text) and text is not None and start is not None and text.startswith(start)
            assert float(got[i, j]) == (float(prior[j].log()) if matches else -torch.inf), (start, text)


def test_a_prior_that_does_not_fit_is_refused() -> None:
    for prior in (torch.ones(1), torch.tensor([1.0, -1.0])):
        with pytest.raises(InputError) as caught:
            StringPrefix.of_bytes([b"a"], [b"a", b"b"], prior=prior)
        assert "next:" in str(caught.value)


def affinities() -> list[Affinity]:
    texts = [b"in", b"int", b"inside", b"x", None, b"i", b"xy", b"in", b"q"]
    p = calibration(N)
    return [
        Covariance(distributions=p),
        Correlation(distributions=p),
        CoOccurrence(given=p, then=p),
        HeadCosine(weight=torch.randn(N, 3, generator=torch.Generator().manual_seed(1))),
        StringPrefix.of_bytes(texts, texts),
    ]


@pytest.mark.parametrize("affinity", affinities(), ids=lambda a: a.kind)
def test_neighbours_are_the_token_itself_and_those_of_highest_affinity(affinity: Affinity) -> None:
    ids, among = torch.tensor([5, 0]), torch.tensor([0, 2, 4, 7, 8])
    rows = affinity.rows(ids)
    assert rows.shape == (2, N)
    for allowed in (None, among):
        found = nearest(affinity, ids, n_neighbours=4, among=allowed)
        for i, own in enumerate(ids.tolist()):
            candidates = [j for j in (range(N) if allowed is None else allowed.tolist()) if j != own]
            best = sorted((float(rows[i, j]) for j in candidates), reverse=True)[:3]
            assert found[i, 0] == own
            for j, score in zip(found[i, 1:].tolist(), best, strict=True):
                assert j == own if score == -torch.inf else j in candidates and float(rows[i, j]) == score


def test_bad_distributions_and_neighbours_are_refused_with_a_remedy() -> None:
    ids, probs = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]])
    for wrong in (probs - 1, probs * 0, probs * torch.inf, probs.long(), probs[0]):
        with pytest.raises(InputError, match="probabilities, not logits"):
            SparseDistributions(ids=ids, probs=wrong, width=2)
    with pytest.raises(VocabError, match="with the head they are used for"):
        SparseDistributions(ids=ids, probs=probs, width=1)
    for n_neighbours in (0, N + 1):
        with pytest.raises(InputError, match="16 to 64"):
            nearest(affinities()[0], ALL, n_neighbours=n_neighbours)
