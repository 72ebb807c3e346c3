"""Fitting a head under a budget, on traces of models that do not exist: what is chosen, and what cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from toy_traces import head, random_traces

from outlex.calibration.traces import TraceSet
from outlex.drafters import FittedHead
from outlex.errors import InputError, MismatchError, NumericalError
from outlex.forecast.fitting import FitSettings, FittedChoice, Trial, fit_head
from outlex.forecast.head_builder import HeadBuilder
from outlex.heads.linear import LinearHead
from outlex.heads.preview_plan import PreviewPlan, affordable_plans
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of

N_ROWS, WIDTH = 8320, 64


@cache
def facts() -> TokenizerFacts:
    """A tokenizer of 4,000 words, so that hardly a token must be kept."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(4000)}, unk_token="w0"))
    return facts_of(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1"))


@cache
def setting() -> tuple[LinearHead, LinearHead, TraceSet]:
    target, drafter = (head(N_ROWS, WIDTH, seed=seed) for seed in (1, 1))
    return target, drafter, random_traces(target, drafter, [40] * 8)


def fit(traces: list[TraceSet] | None = None, **settings: Any) -> FittedChoice:
    target, drafter, own = setting()
    return fit_head(
        [own] if traces is None else traces,
        target_head=target,
        drafter_head=drafter,
        facts=facts(),
        settings=FitSettings(**{"method": "preview", "budget": 0.3, **settings}),
    )


@pytest.mark.parametrize("method", ["preview", "in-context", "both"])
def test_the_best_head_within_the_budget(method: Any) -> None:
    _, drafter, traces = setting()
    choice = fit(method=method)
    best = choice.trials[0]
    assert [trial.kept for trial in choice.trials] == sorted((trial.kept for trial in choice.trials), reverse=True)
    assert all(0 < trial.head_bytes <= 0.3 for trial in choice.trials)
    assert best.latency is None
    own, whole = best.acceptance[1.0]
    assert best.kept == pytest.approx(own / whole)
    assert 0 < own <= whole + 1e-6
    built = choice.head.head_from(drafter, n_target=N_ROWS)
    built.begin(traces.prompt_ids[traces.prompt_rows(0)].tolist())
    assert built.bytes_per_step <= 0.3 * drafter.n_bytes
    assert built.follows_request == (method != "preview")
    assert choice.head.method == method
    assert choice.head.tokenizer_fingerprint == facts().fingerprint
    assert choice.head.head_fingerprint == drafter.fingerprint
    # the last fit has all prompts
    assert choice.head.provenance["positions"] == len(traces)
    assert choice.head.provenance["prompts"] == 8
    assert choice.head.provenance["compared_on"] == {"positions": 80, "prompts": 2}
    if choice.head.preview is not None:
        assert choice.head.preview.n_positions == len(traces)


def test_one_preview_of_each_pair_of_shortlist_sizes_is_tried() -> None:
    target, drafter, _ = setting()
    settings = FitSettings(method="preview", budget=0.5)
    build = HeadBuilder(target, drafter, facts=facts(), stop_ids=[], settings=settings)
    tried = [plan for plan in build.plans(0) if isinstance(plan, PreviewPlan)]
    everything = affordable_plans(drafter, max_bytes=int(0.5 * drafter.n_bytes))
    pairs = [(plan.n_candidates, plan.n_exact) for plan in tried]
    assert sorted(pairs) == sorted({(plan.n_candidates, plan.n_exact) for plan in everything})
    for plan in tried:
        # nothing that sorts before it has these sizes
        before = everything[: everything.index(plan)]
        assert (plan.n_candidates, plan.n_exact) not in [(one.n_candidates, one.n_exact) for one in before]


def test_a_larger_budget_buys_acceptance() -> None:
    small, large = (fit(method="in-context", budget=budget).trials[0] for budget in (0.1, 0.4))
    assert small.kept < large.kept
    assert small.head_bytes > 0.06  # what is there is used


def test_more_tokens_of_requests_than_was_thought_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlex.forecast.fitting.JOINING", 1)
    for method in ("in-context", "both"):
        assert fit(method=method, budget=0.25).trials[0].head_bytes <= 0.25


@pytest.mark.parametrize("method", ["preview", "in-context", "both"])
def test_a_budget_that_buys_nothing_says_what_would(method: Any) -> None:
    with pytest.raises(InputError, match="larger --budget") as caught:
        fit(method=method, budget=0.001)
    found = re.search(r"at least ([\d.]+)%", str(caught.value))
    assert found is not None
    smallest = float(found.group(1)) / 100
    assert fit(method=method, budget=smallest * 1.15).trials[0].head_bytes <= smallest * 1.15


def test_time_can_be_limited() -> None:
    free = fit(max_latency=0.99999, budget=0.3) if _is_quick() else None
    if free is not None:
        assert all(trial.latency is not None and trial.latency > 0 for trial in free.trials)
    with pytest.raises(InputError, match="larger --latency") as caught:
        fit(max_latency=1e-9)
    assert "on this machine" in str(caught.value)


def _is_quick() -> bool:
    """Whether a preview of so small a head is quicker than the head here; it need not be."""
    from outlex.forecast.head_times import relative_times

    _, drafter, traces = setting()
    return relative_times(drafter, [fit().head], traces, n_target=N_ROWS)[0] < 0.9


def test_several_temperatures_count_alike() -> None:
    target, drafter, traces = setting()
    other = random_traces(target, drafter, [40] * 8, seed=5)
    greedy = replace(other, header=replace(other.header, settings=replace(other.header.settings, temperature=0.0)))
    given = replace(other, header=replace(other.header, settings=replace(other.header.settings, temperature=None)))
    choice = fit([traces, greedy])
    assert set(choice.trials[0].acceptance) == {0.0, 1.0}
    assert choice.head.provenance["positions"] == 640
    assert set(fit([given]).trials[0].acceptance) == {1.0}


def test_fitting_twice_gives_the_same() -> None:
    one, other = fit(), fit()
    assert one.trials == other.trials
    assert one.head.preview is not None
    assert other.head.preview is not None
    assert torch.equal(one.head.preview.coarse[0].codes, other.head.preview.coarse[0].codes)


def test_a_whole_head_that_accepts_nothing_loses_nothing() -> None:
    trial = Trial(name="a", head_bytes=0.1, acceptance={0.0: (0.0, 0.0), 1.0: (0.4, 0.5)}, latency=None)
    assert trial.kept == pytest.approx(0.9)
    assert trial.to_json()["acceptance"] == {"0": [0.0, 0.0], "1": [0.4, 0.5]}


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"method": "svd"}, "preview needs the fewest"),
        ({"budget": 0.0}, "0.03 to 0.05"),
        ({"budget": 1.0}, "0.03 to 0.05"),
        ({"budget": float("nan")}, "0.03 to 0.05"),
        ({"max_latency": 0.0}, "0.125"),
        ({"max_latency": 1.5}, "0.125"),
        ({"shrinkage": 1.5}, "shrinkage"),
        ({"held_out": 0.0}, "between 0 and 1"),
        ({"held_out": 0.01}, "trace more prompts"),
        ({"method": "both", "capacity": 0}, "defaults are good starts"),
        ({"method": "both", "capacity": 2}, "capacity"),
        ({"method": "both", "top_m": 9}, "smaller top_m"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used(changes: dict[str, Any], needle: str) -> None:
    with pytest.raises(InputError) as caught:
        fit(**changes)
    assert needle in str(caught.value)


def test_traces_that_cannot_be_used() -> None:
    target, drafter, traces = setting()
    with pytest.raises(InputError, match="outlex trace"):
        fit([])
    with pytest.raises(InputError, match="at least 200"):
        fit([random_traces(target, drafter, [25] * 8)])  # three quarters of them are 150
    other = head(N_ROWS, WIDTH, seed=9)
    with pytest.raises(MismatchError, match="another drafter"):
        fit([traces, random_traces(target, other, [40] * 8)])
    with pytest.raises(MismatchError, match="another drafter"):
        fit([random_traces(target, head(N_ROWS, 32, seed=9), [40] * 8)])
    with pytest.raises(NumericalError, match="first in prompt"):
        replace(traces, drafter_hidden=traces.drafter_hidden.index_fill(0, torch.tensor([3]), torch.nan))


def test_small_heads_are_told_that_there_is_no_preview() -> None:
    target, drafter = head(300, 64, seed=1), head(300, 64, seed=1)
    with pytest.raises(InputError, match="in-context"):
        fit_head(
            [random_traces(target, drafter, [40] * 8)],
            target_head=target,
            drafter_head=drafter,
            facts=facts(),
            settings=FitSettings(method="preview", budget=0.5),
        )


def test_the_choice_is_an_artifact(tmp_path: Any) -> None:
    choice = fit(method="both")
    choice.head.save(tmp_path / "h")
    assert FittedHead.load(tmp_path / "h").describe() == choice.head.describe()
