"""λ is the grid's best where that is more than noise, for each temperature and each range of the cold mass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from proposal_builders import cold_rows, laws, pure_proposals, scores_of, tli
from torch import Tensor

from outlex.errors import InputError, NumericalError
from outlex.proposals import ColdRow, DenseKernel, DraftScores, Mixed
from outlex.sampling import SamplingParams, probabilities
from outlex.verify import overlap

HOT, N, D = [4, 1, 6], 7, 4
GRID = (0.0, 0.1, 0.25, 0.5, 1.0)


def batches(scores: DraftScores, logits: Tensor, size: int) -> list[tuple[DraftScores, Tensor]]:
    return [
        (replace(scores, logits=scores.logits[i : i + size], hidden=scores.hidden[i : i + size]), logits[i : i + size])
        for i in range(0, len(logits), size)
    ]


def acceptance(proposal: Mixed, scores: DraftScores, logits: Tensor, temperature: float) -> float:
    params = SamplingParams(temperature=temperature)
    return float(overlap(probabilities(logits, params), proposal.law(scores, params).dense()).mean())


def test_it_finds_the_mixture_that_the_target_is() -> None:
    scores = scores_of(HOT, N, n=60, d=D)
    kernel = DenseKernel(matrix=laws(N, N, seed=2))
    for share in GRID:
        p = (1 - share) * tli(scores) + share * kernel.law(scores, SamplingParams()).dense()
        for size in (7, 60):
            found = Mixed.calibrate(kernel, batches(scores, p.log(), size), grid=GRID)
            assert found.weights == ((share,),)
            assert acceptance(found, scores, p.log(), 1.0) == pytest.approx(1.0, abs=1e-12)


def test_on_its_own_traces_it_is_never_worse_than_either_end() -> None:
    for name, inner in pure_proposals(HOT, N, d=D).items():
        scores = scores_of(HOT, N, n=200, d=D, seed=30)
        logits = torch.randn(200, N, dtype=torch.float64, generator=torch.Generator().manual_seed(31))
        found = Mixed.calibrate(inner, batches(scores, logits, 64), temperatures=(0.5, 1.0), margin=0.0)
        for temperature in (0.5, 1.0):
            ends = [
                acceptance(Mixed(inner=inner, weights=((share,),)), scores, logits, temperature) for share in (0.0, 1.0)
            ]
            assert acceptance(found, scores, logits, temperature) >= max(ends) - 1e-12, name


def test_each_temperature_has_its_own_weight_and_the_nearest_is_used() -> None:
    proposal = Mixed(
        inner=pure_proposals(HOT, N, d=D)["learned"], weights=((0.0,), (0.4,), (1.0,)), temperatures=(0.0, 0.7, 1.0)
    )
    scores = scores_of(HOT, N, n=5, d=D)
    for temperature, share in ((0.0, 0.0), (0.3, 0.0), (0.4, 0.4), (0.84, 0.4), (0.9, 1.0), (3.0, 1.0)):
        params = SamplingParams(temperature=temperature)
        wanted = Mixed(inner=proposal.inner, weights=((share,),)).law(scores, params).dense()
        torch.testing.assert_close(proposal.law(scores, params).dense(), wanted, rtol=0, atol=1e-15)


def test_each_range_of_the_cold_mass_has_its_own_weight() -> None:
    scores = scores_of(HOT, N, n=300, d=D)
    estimator = ColdRow.fit(cold_rows(HOT, N, d=D), n_target=N)
    mass = estimator.cold_mass(scores, SamplingParams())
    edges = tuple(float(mass.quantile(share)) for share in (0.3, 0.6))
    inner = DenseKernel(matrix=laws(N, N, seed=2))
    q, r = tli(scores), inner.law(scores, SamplingParams()).dense()
    shares = (mass > edges[0]).double() * 0.25 + (mass >= edges[1]).double() * 0.25
    p = (1 - shares).unsqueeze(-1) * q + shares.unsqueeze(-1) * r
    found = Mixed.calibrate(inner, batches(scores, p.log(), 32), edges=edges, estimator=estimator, grid=GRID)
    assert found.weights == ((0.0, 0.25, 0.5),)
    assert acceptance(found, scores, p.log(), 1.0) == pytest.approx(1.0, abs=1e-12)


def test_a_gain_within_noise_is_no_gain() -> None:
    # one position in forty gains a little, all others nothing: one standard error, not two
    scores = scores_of(HOT, N, n=40, d=D)
    kernel = DenseKernel(matrix=laws(N, N, seed=2))
    p = tli(scores)
    row = replace(scores, logits=scores.logits[:1], hidden=scores.hidden[:1])
    p[0] = kernel.law(row, SamplingParams()).dense()[0]
    p[1:] = kernel.law(scores, SamplingParams()).dense()[1:] * 1e-9 + p[1:]  # logits must be finite
    only_gain = [(row, p[:1].log())] * 2
    assert Mixed.calibrate(kernel, only_gain, grid=GRID).weights == ((1.0,),)
    # of one prompt they are one observation
    assert Mixed.calibrate(kernel, only_gain, clusters=torch.tensor([3, 3]), grid=GRID).weights == ((0.0,),)
    assert Mixed.calibrate(kernel, batches(scores, p.log(), 40), grid=GRID).weights == ((0.0,),)


def test_a_range_without_positions_is_tli() -> None:
    scores = scores_of(HOT, N, n=10, d=D)
    estimator = ColdRow.fit(cold_rows(HOT, N, d=D), n_target=N)
    inner = DenseKernel(matrix=laws(N, N, seed=2))
    p = inner.law(scores, SamplingParams()).dense()
    found = Mixed.calibrate(inner, [(scores, p.log())], edges=(0.99999,), estimator=estimator)
    assert found.weights == ((1.0, 0.0),)


def test_calibration_that_cannot_be_is_refused_with_a_remedy() -> None:
    inner = DenseKernel(matrix=laws(N, N, seed=2))
    with pytest.raises(InputError, match="outlex trace"):
        Mixed.calibrate(inner, [])
    for grid in ((0.5, 1.0), (0.0, 1.5)):
        with pytest.raises(InputError, match="worse than TLI"):
            Mixed.calibrate(inner, [], grid=grid)
    untouched = iter([(scores_of(HOT, N, n=1, d=D), torch.zeros(1, N))])
    with pytest.raises(InputError, match="estimator where there are ranges"):
        Mixed.calibrate(inner, untouched, edges=(0.1,))
    assert len(list(untouched)) == 1  # refused before any work was done
    with pytest.raises(NumericalError, match="float32"):
        Mixed.calibrate(inner, [(scores_of(HOT, N, n=1, d=D), torch.full((1, N), torch.nan))])
