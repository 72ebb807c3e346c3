"""The size search: closed form, every size tried and TPE agree; limits and Pareto front."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from drafter_configs import EAGLE3
from hypothesis import given
from hypothesis import strategies as st

from outlex.errors import InputError, NumericalError
from outlex.selection.architecture import shape_of
from outlex.selection.cost import LinearCost
from outlex.selection.coverage import CoverageCurve, coverage_curve
from outlex.selection.latency import LatencyCost
from outlex.selection.pareto import pareto_front, thinned
from outlex.selection.size import SizeGoal, best_size, closed_form_size, pays_above, size_range
from outlex.selection.tpe import Axis, Choices, Found, Params, Sizes, search


def zipf_curve(n: int = 128_256, *, a: float = 1.2, n_must: int = 300) -> CoverageCurve:
    """Counts like those of text; the must-keep tokens are somewhere in the list."""
    weights = (torch.arange(n, dtype=torch.float64) + 3) ** -a
    must = torch.zeros(n, dtype=torch.bool)
    must[torch.randperm(n, generator=torch.Generator().manual_seed(0))[:n_must]] = True
    return coverage_curve(torch.arange(n), must=must, weights=weights)


def test_the_threshold_of_the_paper() -> None:
    assert pays_above(shape_of(EAGLE3).flops(), alpha=0.5) == pytest.approx(5.0e-6, rel=1e-3)
    assert pays_above(shape_of(EAGLE3).flops(), alpha=0) == float("inf")


def test_every_row_pays_until_the_threshold() -> None:
    curve, cost = zipf_curve(n_must=0), shape_of(EAGLE3).flops()
    choice = best_size(curve, cost, SizeGoal())
    gains = torch.cat((torch.tensor([curve.first], dtype=torch.float64), curve.gains))
    assert float(gains[choice.size - 1]) > 5.0017e-6 > float(gains[choice.size])
    assert choice.bound == "utility"
    assert choice.utility == pytest.approx(0.5 * choice.coverage + 0.5 * choice.reduction)


counts = st.lists(st.integers(0, 50), min_size=2, max_size=60).filter(any)


@given(counts, st.floats(0, 1), st.floats(0, 100), st.floats(0.01, 10), st.data())
def test_closed_form_and_every_size_agree(
    found: list[int], alpha: float, fixed: float, per_row: float, data: st.DataObject
) -> None:
    n = len(found)
    weights = torch.tensor(sorted(found, reverse=True))
    must = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    curve = coverage_curve(torch.arange(n), must=must, weights=weights)
    cost = LinearCost(unit="FLOPs", n_rows=n + data.draw(st.integers(0, 9)), fixed=fixed, per_row=per_row)
    high = data.draw(st.integers(curve.smallest, curve.largest))
    goal = SizeGoal(
        alpha=alpha,
        min_coverage=data.draw(st.floats(0, min(1, curve.at(high)))),
        min_size=data.draw(st.integers(1, high)),
        max_size=high,
    )
    tried, formula = best_size(curve, cost, goal), closed_form_size(curve, cost, goal)
    assert formula.utility == pytest.approx(tried.utility, abs=1e-12)
    for choice in (tried, formula):
        assert goal.min_size <= choice.size <= high
        assert choice.size >= int(must.sum())
        assert choice.coverage >= goal.min_coverage - 1e-9


@given(counts, st.floats(0, 1), st.data())
def test_every_size_is_really_tried(found: list[int], alpha: float, data: st.DataObject) -> None:
    """Against a loop, with a ranking in any order and a cost with steps."""
    n = len(found)
    order = torch.tensor(data.draw(st.permutations(range(n))))
    must = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    seconds = tuple(sorted(data.draw(st.lists(st.floats(0, 5), min_size=n, max_size=n))))
    cost = LatencyCost(
        sizes=tuple(range(1, n + 1)),
        head_s=seconds,
        measured_s=seconds,
        rest_s=0.5,
        n_rounds=1,
        threads=1,
        dtype="float32",
        device="cpu",
    )
    curve = coverage_curve(order, must=must, weights=torch.tensor(found))
    best = -1.0
    for k in range(max(1, int(must.sum())), n + 1):
        others = [i for i in order.tolist() if not must[i]][: k - int(must.sum())]
        kept = sum(found[i] for i in others) + sum(c for c, m in zip(found, must.tolist(), strict=True) if m)
        r = 1 - (0.5 + seconds[k - 1]) / (0.5 + seconds[-1])
        best = max(best, alpha * kept / sum(found) + (1 - alpha) * r)
    assert best_size(curve, cost, SizeGoal(alpha=alpha)).utility == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    ("goal", "bound"),
    [
        (SizeGoal(), "utility"),
        (SizeGoal(min_coverage=0.99), "min_coverage"),
        (SizeGoal(min_size=90_000), "min_size"),
        (SizeGoal(max_size=1_000), "max_size"),
        (SizeGoal(alpha=0), "utility"),
    ],
)
def test_the_limit_that_decided_is_named(goal: SizeGoal, bound: str) -> None:
    curve, cost = zipf_curve(), shape_of(EAGLE3).flops()
    choice = best_size(curve, cost, goal)
    assert choice == closed_form_size(curve, cost, goal)
    assert choice.bound == bound
    if bound == "min_coverage":  # the smallest size that covers as much
        assert curve.at(choice.size - 1) < 0.99 <= choice.coverage
    if goal.alpha == 0:
        assert choice.size == curve.smallest == 300


def test_only_coverage_counts_at_alpha_1_and_rows_that_cover_nothing_are_left_out() -> None:
    curve = coverage_curve(
        torch.arange(6), must=torch.zeros(6, dtype=torch.bool), weights=torch.tensor([5, 3, 1, 0, 0, 0])
    )
    cost = LinearCost(unit="bytes", n_rows=6, fixed=1, per_row=1)
    assert best_size(curve, cost, SizeGoal(alpha=1)).size == 3
    assert closed_form_size(curve, cost, SizeGoal(alpha=1)).size == 3


def test_the_closed_form_refuses_a_curve_that_is_not_concave() -> None:
    must, weights = torch.zeros(3, dtype=torch.bool), torch.tensor([5, 3, 1])
    cost = LinearCost(unit="bytes", n_rows=3, fixed=1, per_row=1)
    assert closed_form_size(coverage_curve(torch.tensor([2, 0, 1]), must=must, weights=weights), cost, SizeGoal())
    steep = coverage_curve(torch.tensor([2, 1, 0]), must=must, weights=weights)
    with pytest.raises(InputError, match="tries every size"):
        closed_form_size(steep, cost, SizeGoal())


def test_coverage_out_of_reach_names_the_best() -> None:
    weights = torch.tensor([6, 3, 1])  # the last token is outside the head
    curve = coverage_curve(torch.tensor([0, 1]), must=torch.zeros(3, dtype=torch.bool), weights=weights)
    with pytest.raises(InputError, match=r"0\.900000, the coverage of 2 rows") as caught:
        size_range(curve, SizeGoal(min_coverage=0.95))
    assert "--min-coverage" in str(caught.value)
    with pytest.raises(InputError, match=r"0\.600000, the coverage of 1 rows") as caught:
        size_range(curve, SizeGoal(min_coverage=0.95, max_size=1))
    assert "--max-size" in str(caught.value)
    assert size_range(curve, SizeGoal(min_coverage=0.9)) == (2, 2)


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 1.5}, {"alpha": float("nan")}, {"min_coverage": -0.1}, {"min_size": 0}, {"min_size": 9, "max_size": 8}],
)
def test_goals_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="next:"):
        SizeGoal(**settings)  # type: ignore[arg-type]


def test_limits_without_a_size_between_them_are_refused() -> None:
    with pytest.raises(InputError, match=r"300 \(must-keep tokens\)"):
        size_range(zipf_curve(), SizeGoal(max_size=200))
    with pytest.raises(InputError, match="to 128256"):
        size_range(zipf_curve(), SizeGoal(min_size=200_000))


# --- Pareto ------------------------------------------------------------------------------------------------


def test_the_front_is_what_nothing_beats() -> None:
    curve = CoverageCurve(smallest=1, first=0.5, gains=torch.tensor([0.2, 0.1, 0.0, 0.1], dtype=torch.float64))
    times = (1.0, 1.0, 2.0, 2.5, 2.5)
    cost = LatencyCost(
        sizes=(1, 2, 3, 4, 5),
        head_s=times,
        measured_s=times,
        rest_s=0.0,
        n_rounds=1,
        threads=1,
        dtype="float32",
        device="cpu",
    )
    front = pareto_front([5, 4, 3, 2, 1, 1], curve, cost)
    assert [point.size for point in front] == [2, 3, 5]  # 1 costs what 2 costs, 4 covers what 3 covers
    assert [point.cost for point in front] == [1.0, 2.0, 2.5]
    assert [point.coverage for point in front] == pytest.approx([0.7, 0.8, 0.9])
    for sizes in ([], [0, 2], [6]):
        with pytest.raises(InputError, match="from 1 to 5"):
            pareto_front(sizes, curve, cost)


@given(st.integers(1, 10_000), st.integers(1, 300_000), st.integers(2, 20))
def test_thinned_sizes_have_both_ends(low: int, high: int, n: int) -> None:
    low, high = sorted((low, high))
    sizes = thinned(low, high, n=n)
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (low, high)
    assert len(sizes) <= n + 1


# --- TPE ---------------------------------------------------------------------------------------------------


def tpe_size(curve: CoverageCurve, cost: LinearCost, goal: SizeGoal, *, seed: int = 0) -> Found:
    low, high = size_range(curve, goal)
    whole = cost.fixed + cost.per_row * cost.n_rows

    def utility(params: Params) -> float:
        k = int(params["size"])
        return goal.alpha * curve.at(k) + (1 - goal.alpha) * (1 - (cost.fixed + cost.per_row * k) / whole)

    return search(utility, {"size": Sizes(low=low, high=high)}, n_trials=100, seed=seed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "goal",
    [SizeGoal(), SizeGoal(alpha=0.8), SizeGoal(alpha=0.2), SizeGoal(min_coverage=0.97), SizeGoal(max_size=5_000)],
)
def test_tpe_agrees_with_the_exact_optimum(goal: SizeGoal, seed: int) -> None:
    curve, cost = zipf_curve(), shape_of(EAGLE3).flops()
    exact, found = best_size(curve, cost, goal), tpe_size(curve, cost, goal, seed=seed)
    assert exact.utility - 1e-4 <= found.best.value <= exact.utility + 1e-12


def test_tpe_is_repeatable_and_reports_every_trial() -> None:
    curve, cost = zipf_curve(), shape_of(EAGLE3).flops()
    first, second = (tpe_size(curve, cost, SizeGoal()) for _ in range(2))
    assert first == second
    assert len(first.trials) == 100
    assert first.best.value == max(trial.value for trial in first.trials)
    assert [trial.params["size"] for trial in first.trials[:2]] == [300, 128_256]


def test_a_joint_search_finds_size_draft_length_and_proposal() -> None:
    """A forecast in place of U: tokens a second of a made-up pair, whose optimum is known by trying all points."""

    def tokens_per_s(params: Params) -> float:
        size, draft_len = int(params["size"]), int(params["draft_len"])
        alpha = 0.9 - 3 / size**0.5 + (0.02 if params["proposal"] == "tli" else 0.0)
        tau = (1 - alpha ** (draft_len + 1)) / (1 - alpha)
        return float(tau / (1 + draft_len * (0.1 + size / 100_000)))

    space: dict[str, Axis] = {
        "size": Sizes(low=500, high=50_000),
        "draft_len": Sizes(low=1, high=8, log=False),
        "proposal": Choices(names=("vanilla", "tli")),
    }
    found = search(tokens_per_s, space, n_trials=200, seed=3)
    best = max(
        tokens_per_s({"size": size, "draft_len": n, "proposal": "tli"})
        for size in range(500, 50_001, 50)
        for n in range(1, 9)
    )
    assert found.best.params["proposal"] == "tli"
    assert found.best.value >= 0.99 * best


def test_a_search_without_points_or_with_bad_values_is_refused() -> None:
    with pytest.raises(NumericalError, match="narrow the space"):
        search(lambda params: float("nan"), {"size": Sizes(low=1, high=5)}, n_trials=3)
    with pytest.raises(InputError, match="number of trials"):
        search(lambda params: 1.0, {"size": Sizes(low=1, high=5)}, n_trials=0)
    with pytest.raises(InputError, match="nothing to search"):
        search(lambda params: 1.0, {}, n_trials=3)
    with pytest.raises(InputError, match="smaller end first"):
        Sizes(low=5, high=4)
    with pytest.raises(InputError, match="at least one"):
        Choices(names=())


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'outlex\[select\]'"):
        search(lambda params: 1.0, {"size": Sizes(low=1, high=5)})


def test_importing_the_room_loads_neither_optuna_nor_scipy() -> None:
    code = (
        "import sys\n"
        "from outlex.selection import tpe, size, latency, ranking, pareto, architecture\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'optuna', 'scipy', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
