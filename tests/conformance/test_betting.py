"""The account: fair under the null hypothesis, whatever rounding within the tolerance does, and quick to grow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor

from outlex.conformance.betting import RATIOS, Accounts, detectable
from outlex.conformance.law import Tolerance, laws_of
from outlex.errors import InputError
from outlex.sampling import SamplingParams, probabilities

PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0.6),
    SamplingParams(top_k=3),
    SamplingParams(top_p=0.8),
    SamplingParams(min_p=0.2),
    SamplingParams(temperature=1.5, top_k=5, top_p=0.9, min_p=0.05),
]


def logits_from(seed: int, n: int = 4, width: int = 8) -> Tensor:
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


@settings(max_examples=120)
@given(
    seed=st.integers(0, 10**6),
    params=st.sampled_from(PARAMS),
    edge=st.sampled_from([0.0, 0.01, 0.3]),
    members=st.integers(1, 254),
)
def test_no_rounding_within_the_tolerance_makes_a_set_more_probable_than_stated(
    seed: int, params: SamplingParams, edge: float, members: int
) -> None:
    # every logit off by at most η: the odds of a set are off by at most 2η/T, and tokens may cross a filter's edge
    exact = logits_from(seed)
    inside = torch.tensor([bool(members >> i & 1) for i in range(8)])
    laws = laws_of(exact, params, Tolerance(odds=2 * edge / params.temperature, edge=edge))
    for trial in range(6):
        noise = (torch.rand(4, 8, generator=torch.Generator().manual_seed(trial), dtype=torch.float64) - 0.5) * 2
        if trial == 0:
            noise = torch.where(inside, 1.0, -1.0).double()  # the worst there is, without filters
        rounded = probabilities(exact + edge * noise, params)
        assert bool(((rounded * inside).sum(-1) <= laws.most(inside) + 1e-9).all())
    assert bool((laws.mass(inside) <= laws.most(inside) + 1e-12).all())


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), odds=st.sampled_from([0.0, 0.02, 0.4]))
def test_an_account_never_grows_on_average(seed: int, odds: float) -> None:
    logits = logits_from(seed, n=1)
    inside = torch.rand(3, 8, generator=torch.Generator().manual_seed(seed)) < 0.4
    laws = laws_of(logits, SamplingParams(), Tolerance(odds=odds, edge=0.0))
    bounds = torch.stack([laws.most(row)[0] for row in inside])
    growth = 0.0
    for token_id, p in enumerate(laws.probs[0].tolist()):
        accounts = Accounts(3)
        accounts.settle(bounds.unsqueeze(0), inside[:, token_id].unsqueeze(0))
        growth += p * math.exp(accounts.log_wealth)
    assert growth <= 1 + 1e-12
    assert odds > 0 or not inside.any(-1).all() or growth == pytest.approx(1.0)


def test_settling_is_the_product_of_the_bets() -> None:
    bounds = torch.tensor([[0.5, 1.0], [0.2, 0.9], [0.5, 0.1]], dtype=torch.float64)
    inside = torch.tensor([[True, True], [False, True], [True, False]])
    accounts = Accounts(2)
    courses = [accounts.settle(bounds[rows], inside[rows]) for rows in (slice(2), slice(2, 3))]
    products = []
    for n in range(1, 4):
        by_bet = [0.0, 0.0]
        for bet in range(2):
            for r in RATIOS:
                account = 1.0
                for u, hit in zip(bounds[:n, bet].tolist(), inside[:n, bet].tolist(), strict=True):
                    if u < 1:  # a set that may hold everything is not bet on
                        account *= (r if hit else 1) / (1 - u + r * u)
                by_bet[bet] += account / len(RATIOS)
        products.append(by_bet)
    mixtures = [math.log(sum(by_bet) / 2) for by_bet in products]
    assert torch.cat([course.log_wealth for course in courses]).tolist() == pytest.approx(mixtures)
    assert torch.cat([course.log_by_bet for course in courses]).exp() == pytest.approx(torch.tensor(products))
    assert accounts.log_wealth == pytest.approx(mixtures[-1])


def test_a_token_that_cannot_be_drawn_ends_the_test() -> None:
    laws = laws_of(logits_from(3, n=1), SamplingParams(top_k=2), Tolerance(odds=0.1, edge=0.01))
    last = torch.zeros(8, dtype=torch.bool)
    last[int(laws.probs[0].argmin())] = True
    bound = laws.most(last)
    assert bound.tolist() == [0.0]
    accounts = Accounts(1)
    assert float(accounts.settle(bound[:, None], torch.tensor([[False]])).log_wealth) == 0.0
    assert float(accounts.settle(bound[:, None], torch.tensor([[True]])).log_wealth) == math.inf


def test_false_alarms_of_many_looks_are_as_rare_as_stated() -> None:
    # 1,500 runs of 400 draws with a look after each; sets follow the past, as adaptive aims do
    n_runs, alpha = 1500, 0.02
    generator = torch.Generator().manual_seed(5)
    law = torch.tensor([0.45, 0.3, 0.2, 0.05], dtype=torch.float64)
    alarms = 0
    for _ in range(n_runs):
        tokens = torch.multinomial(law, 400, replacement=True, generator=generator)
        counts = torch.nn.functional.one_hot(tokens, 4).double().cumsum(0)
        past = torch.cat([torch.zeros(1, 4, dtype=torch.float64), counts[:-1]])
        ahead = past > past.sum(-1, keepdim=True) * law  # drawn more often than expected so far
        bounds = torch.stack([(ahead * law).sum(-1), law[3].expand(400)], dim=-1)
        bounds[0, 0] = 1.0
        inside = torch.stack([ahead.gather(1, tokens[:, None])[:, 0], tokens == 3], dim=-1)
        alarms += bool((Accounts(2).settle(bounds, inside).log_wealth >= -math.log(alpha)).any())
    assert 0 < alarms <= binom.ppf(0.999, n_runs, alpha)


def test_the_stated_power_is_reached_and_nothing_less_is_stated() -> None:
    a, n_draws = 0.3, 1000
    b = detectable(a, odds=0.01, n_draws=n_draws, n_bets=5, false_alarm=0.01, power=0.9)
    inside = a * math.exp(0.01)
    bound = torch.full((n_draws, 5), 1.0, dtype=torch.float64)
    bound[:, 0] = inside / (inside + 1 - a)
    generator = torch.Generator().manual_seed(1)

    def alarms(probability: float) -> float:
        found = 0
        for _ in range(200):
            hit = torch.rand(n_draws, 1, generator=generator) < probability
            accounts = Accounts(5)
            accounts.settle(bound, hit.expand(-1, 5))
            found += accounts.log_wealth >= math.log(100)
        return found / 200

    assert alarms(b) > 0.82
    assert alarms((a + b) / 2) < 0.6
    assert detectable(a, odds=0.01, n_draws=4000, n_bets=5, false_alarm=0.01, power=0.9) < b
    assert detectable(0.5, odds=0.0, n_draws=3, n_bets=5, false_alarm=0.01, power=0.9) == 1.0


def test_tolerances_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="type rounds") as refused:
        Tolerance.of_dtype("int4")
    assert "--engine-dtype" in str(refused.value)
    for odds in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="tolerance") as refused:
            Tolerance(odds=odds, edge=0.0)
        assert "--tolerance" in str(refused.value)
