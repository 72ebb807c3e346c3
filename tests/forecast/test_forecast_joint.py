"""Size, draft length and proposal at once: against every setting tried by hand, and by TPE."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_pair

from outlex import SubVocab
from outlex.calibration.collect import TraceRequest, collect_traces
from outlex.calibration.traces import TraceSet
from outlex.errors import InputError
from outlex.forecast import StepTimes, forecast
from outlex.forecast.joint import plan_speed
from outlex.forecast.setting_speeds import Setting, SpeedForecaster
from outlex.models.output_head import output_head
from outlex.proposals import Proposal, Tli, Vanilla
from outlex.selection.coverage import CoverageCurve, coverage_curve
from outlex.selection.size import SizeGoal
from outlex.vocab.tokenizer_facts import facts_of

PROPOSALS: dict[str, Proposal] = {"tli": Tli(), "vanilla": Vanilla()}
DRAFT_LENS = (1, 3)
# heads are dear here, so that neither the smallest nor the largest size is best
TIMES = StepTimes(
    target_pass_s={0: 1.0, 1: 1.02, 3: 1.06}, draft_step_s={1: 0.02, 260: 0.3}, target_prompt_s=0.01, source="by hand"
)
ORDER = torch.cat([torch.tensor([0]), torch.randperm(256, generator=torch.Generator().manual_seed(3)) + 1])


def vocab(size: int) -> SubVocab:
    facts = facts_of(byte_tokenizer())
    return SubVocab(
        draft_to_target=ORDER[:size].sort().values,
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
    )


@pytest.fixture(scope="module")
def curve() -> CoverageCurve:
    weights = torch.zeros(257, dtype=torch.float64)
    weights[ORDER] = 1 / (torch.arange(257, dtype=torch.float64) + 3)
    return coverage_curve(ORDER, must=torch.zeros(257, dtype=torch.bool), weights=weights)


@cache
def traces_at(temperature: float, directory: Path) -> TraceSet:
    requests = [
        TraceRequest(
            id=f"p{i}",
            domain="even" if i % 2 == 0 else "odd",
            prompt_ids=tuple(torch.randint(0, 256, (4,), generator=torch.Generator().manual_seed(i)).tolist()),
        )
        for i in range(8)
    ]
    return collect_traces(
        *tiny_pair(), requests, directory / str(temperature), max_new_tokens=12, temperature=temperature
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


def forecaster(
    *traces: TraceSet, times: StepTimes = TIMES, draft_lens: tuple[int, ...] = DRAFT_LENS
) -> SpeedForecaster:
    heads = [output_head(model) for model in tiny_pair()]
    return SpeedForecaster(
        traces,
        target_head=heads[0],
        drafter_head=heads[1],
        vocab_of=vocab,
        draft_lens=draft_lens,
        proposals=PROPOSALS,
        times=times,
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_best_of_all_settings_is_found(directory: Path, curve: CoverageCurve, alpha: float) -> None:
    traces = traces_at(1.0, directory)
    sizes = range(100, 111)
    goal = SizeGoal(alpha=alpha, min_size=100, max_size=110)
    plan = plan_speed(curve, goal, forecaster(traces))
    speeds: dict[tuple[int, int, str], float] = {}
    bare: dict[tuple[int, str], float] = {}
    heads = [output_head(model) for model in tiny_pair()]
    for name, proposal in PROPOSALS.items():
        result = forecast(
            traces,
            target_head=heads[0],
            drafter_head=heads[1],
            candidates=[vocab(k) for k in sizes],
            temperatures=[1.0],
            draft_lens=DRAFT_LENS,
            proposal=proposal,
            times=TIMES,
        )
        for g in DRAFT_LENS:
            bare[g, name] = result.cell("untrimmed", temperature=1.0, draft_len=g).tokens_per_s or 0.0
            for k in sizes:
                cell = result.cell(f"trimmed-{k}", temperature=1.0, draft_len=g)
                speeds[k, g, name] = cell.tokens_per_s or 0.0
    base = max(bare.values())
    utilities = {key: alpha * curve.at(key[0]) + (1 - alpha) * (1 - base / speed) for key, speed in speeds.items()}
    best = plan.choice
    assert best.utility == pytest.approx(max(utilities.values()), abs=1e-12)
    assert utilities[best.size, best.draft_len, best.proposal] == pytest.approx(best.utility, abs=1e-12)
    assert plan.untrimmed_tokens_per_s == pytest.approx(base)
    assert bare[plan.untrimmed.draft_len, plan.untrimmed.proposal] == base
    assert plan.n_tried == len(speeds)
    assert plan.method == "every candidate"
    if alpha < 1:
        assert best in plan.front
    for fast, slow in zip(plan.front, plan.front[1:], strict=False):
        assert fast.tokens_per_s > slow.tokens_per_s
        assert fast.coverage < slow.coverage
    front = {(p.size, p.draft_len, p.proposal) for p in plan.front}
    for key, speed in speeds.items():
        beaten = any(p.tokens_per_s >= speed and p.coverage >= curve.at(key[0]) for p in plan.front)
        assert key in front or beaten


def test_tpe_and_every_candidate_agree(directory: Path, curve: CoverageCurve) -> None:
    pytest.importorskip("optuna")
    shared = forecaster(traces_at(1.0, directory))
    goal = SizeGoal(alpha=0.3, min_size=60, max_size=71)
    exact = plan_speed(curve, goal, shared)
    found = plan_speed(curve, goal, shared, search_by="tpe", n_trials=60, seed=1)
    assert exact.n_tried == 12 * 4
    assert found.choice.utility == pytest.approx(exact.choice.utility, abs=1e-3)
    assert found.choice.utility <= exact.choice.utility
    assert (found.method, found.seed) == ("tpe", 1)
    assert exact.to_json()["size"] == exact.choice.size


def test_a_wide_range_is_searched_at_a_dozen_sizes(directory: Path, curve: CoverageCurve) -> None:
    plan = plan_speed(curve, SizeGoal(alpha=0.0, min_coverage=0.3), forecaster(traces_at(1.0, directory)))
    assert 8 * 4 < plan.n_tried <= 14 * 4
    assert plan.choice.coverage >= 0.3


def test_temperatures_are_pooled_by_their_seconds(directory: Path) -> None:
    sets = [traces_at(1.0, directory), traces_at(0.0, directory)]
    setting = Setting(size=80, draft_len=3, proposal="tli")
    both = forecaster(*sets)
    alone = [forecaster(one).tokens_per_s(setting) for one in sets]
    seconds = sum(len(one) / speed for one, speed in zip(sets, alone, strict=True))
    assert both.tokens_per_s(setting) == pytest.approx(sum(map(len, sets)) / seconds)
    cells = both.cells(setting)
    assert [(cell.temperature, cell.domain) for cell in cells if cell.domain is None] == [(1.0, None), (0.0, None)]
    assert {cell.candidate for cell in cells} == {"trimmed-80"}
    assert {cell.domain for cell in cells} == {None, "even", "odd"}


def test_what_cannot_be_chosen_is_explained(directory: Path, curve: CoverageCurve) -> None:
    traces = traces_at(1.0, directory)
    narrow = StepTimes(target_pass_s={0: 1.0, 3: 1.1}, draft_step_s={100: 0.1, 260: 0.2}, source="a benchmark")
    with pytest.raises(InputError, match=r"do not reach to every setting[\s\S]*leave --bench out"):
        plan_speed(curve, SizeGoal(alpha=0.0, max_size=99), forecaster(traces, times=narrow))
    with pytest.raises(InputError, match="give --traces"):
        forecaster()
    with pytest.raises(InputError, match="each temperature once"):
        forecaster(traces, traces)
    with pytest.raises(InputError, match="--draft-len"):
        forecaster(traces, draft_lens=())
    with pytest.raises(InputError, match=r"out of reach[\s\S]*the coverage of 50 rows"):
        plan_speed(curve, SizeGoal(min_coverage=0.999, max_size=50), forecaster(traces))
