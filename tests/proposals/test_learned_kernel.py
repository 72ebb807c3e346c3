"""The learned kernel: it reaches the optimum of its concave objective, and stops where held-out positions say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proposal_builders import generator, laws
from scipy.optimize import linprog
from torch import Tensor

from outlex.errors import InputError, MismatchError, NumericalError
from outlex.proposals import Learned

R, N, n_positions = 3, 6, 12
NEIGHBOURS = torch.tensor([[0, 3, 4], [1, 4, 5], [2, 5, 0]])


def acceptance(kernel: Learned, q: Tensor, p: Tensor) -> float:
    matrix = torch.zeros(R, N, dtype=torch.float64).scatter_add_(1, kernel.neighbours, kernel.weights)
    return float(torch.minimum(p, q @ matrix).sum(-1).mean())


def best_acceptance(q: Tensor, p: Tensor) -> float:
    """The optimum, by linear programming: maximise Σ t with t ≤ p and t ≤ Mᵀ q'."""
    r, n = NEIGHBOURS.shape[1], len(q)
    n_weights, n_slack = R * r, n * N
    below = np.zeros((n_slack, n_weights + n_slack))
    for s in range(n):
        for v in range(N):
            below[s * N + v, n_weights + s * N + v] = 1
        for i in range(R):
            for k in range(r):
                below[s * N + int(NEIGHBOURS[i, k]), i * r + k] -= float(q[s, i])
    rows = np.zeros((R, n_weights + n_slack))
    for i in range(R):
        rows[i, i * r : (i + 1) * r] = 1
    bounds = [(0, 1)] * n_weights + [(0, float(x)) for x in p.flatten()]
    cost = np.concatenate([np.zeros(n_weights), -np.ones(n_slack)])
    found = linprog(cost, A_ub=below, b_ub=np.zeros(n_slack), A_eq=rows, b_eq=np.ones(R), bounds=bounds)
    assert found.status == 0
    return float(-found.fun) / n


def fit(q: Tensor, p: Tensor, held_out: Tensor, **settings: float) -> Learned:
    return Learned.fit(
        neighbours=NEIGHBOURS,
        n_target=N,
        draft_probs=q,
        target_probs=p[:, Learned.columns(NEIGHBOURS)],
        held_out=held_out,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("seed", range(5))
def test_ascent_reaches_the_optimum_of_linear_programming(seed: int) -> None:
    q, p = laws(n_positions, R, seed=seed), laws(n_positions, N, seed=seed + 100)
    # the same positions to learn from and to judge with: the objective is known on both
    twice = torch.arange(2 * n_positions) >= n_positions
    kernel = fit(torch.cat([q, q]), torch.cat([p, p]), twice, n_steps=3000, patience=3000)
    optimum = best_acceptance(q, p)
    identity = float(torch.minimum(p[:, :R], q).sum(-1).mean())
    assert optimum > identity + 0.02  # there was something to learn
    assert identity < acceptance(kernel, q, p) <= optimum + 1e-12
    assert acceptance(kernel, q, p) == pytest.approx(optimum, abs=1e-3)


def test_on_held_out_positions_it_is_never_worse_than_tli() -> None:
    for seed in range(10):
        q, p = laws(40, R, seed=seed), laws(40, N, seed=seed + 50)
        held_out = torch.rand(40, generator=generator(seed)) < 0.4
        kernel = fit(q, p, held_out, n_steps=60)
        identity = float(torch.minimum(p[held_out][:, :R], q[held_out]).sum(-1).mean())
        assert acceptance(kernel, q[held_out], p[held_out]) >= identity - 1e-12


def test_where_held_out_positions_gain_nothing_it_stays_tli() -> None:
    q, p = laws(20, R, seed=1), laws(20, N, seed=2)
    held_out = torch.arange(20) >= 10
    p[held_out] = torch.nn.functional.pad(q[held_out], (0, N - R))  # the drafter is already right there
    kernel = fit(q, p, held_out)
    assert torch.equal(kernel.weights, torch.tensor([[1.0, 0, 0]] * R, dtype=torch.float64))


def test_a_row_that_never_moves_mass_keeps_it() -> None:
    q, p = laws(20, R, seed=1), laws(20, N, seed=2)
    q[:, 1] = 0
    kernel = fit(q / q.sum(-1, keepdim=True), p, torch.arange(20) % 2 == 0)
    assert kernel.weights[1].tolist() == [1.0, 0.0, 0.0]
    assert float(kernel.weights[0, 0]) < 1


def test_blocks_of_positions_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    q, p = laws(30, R, seed=3), laws(30, N, seed=4)
    held_out = torch.arange(30) % 3 == 0
    at_once = fit(q, p, held_out, n_steps=20).weights
    monkeypatch.setattr("outlex.proposals.learned._POSITIONS_AT_ONCE", 7)
    torch.testing.assert_close(fit(q, p, held_out, n_steps=20).weights, at_once, rtol=0, atol=1e-12)


def test_traces_that_do_not_fit_are_refused_with_a_remedy() -> None:
    q, p, half = laws(4, R, seed=1), laws(4, N, seed=2), torch.arange(4) < 2
    for wrong in ((q[:, :2], p, half), (q, p, half[:3]), (q.float(), p, half), (q, p, half.long())):
        with pytest.raises(MismatchError, match=r"Learned\.columns"):
            fit(*wrong)
    for nobody in (half & False, half | True):
        with pytest.raises(InputError, match="fifth of the prompts"):
            fit(q, p, nobody)
    p[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="float32"):
        fit(q, p, half)
