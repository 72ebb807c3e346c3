from __future__ import annotations

import json
import math

import pytest
from bench_builders import row

from outlex.bench.rows import MethodInfo, Row
from outlex.bench.summary import MethodSummary, summarize
from outlex.metrics import clustered_ratio

METHODS = (
    MethodInfo(name="ar", description="", target_bytes=400),
    MethodInfo(name="transformers", description=""),
    MethodInfo(name="untrimmed", description="", draft_bytes=100, target_bytes=400),
    MethodInfo(name="trimmed-8", description="", draft_bytes=60, target_bytes=400),
)
# 4 tokens in 2 s and 8 tokens in 6 s
AR = [row(), row(prompt_id="b", domain="maths", token_ids=(5,) * 8, n_passes=8, target_s=5.0, wall_s=6.0)]
# the first in 1 s, the second, 10 tokens, in 4 s
UNTRIMMED = [
    row(
        method="untrimmed",
        n_passes=2,
        n_drafted=6,
        n_accepted=2,
        n_tested=4,
        sum_beta=3.0,
        draft_s=0.2,
        target_s=0.7,
        draft_step_s=0.04,
        target_pass_s=0.4,
        wall_s=1.0,
    ),
    row(
        method="untrimmed",
        prompt_id="b",
        domain="maths",
        token_ids=(5,) * 10,
        n_passes=3,
        n_drafted=12,
        n_accepted=7,
        n_tested=9,
        sum_beta=6.5,
        draft_s=0.8,
        target_s=2.0,
        draft_step_s=0.06,
        target_pass_s=0.6,
        wall_s=4.0,
    ),
]
TRIMMED = [
    row(
        method="trimmed-8",
        n_passes=2,
        n_drafted=6,
        n_accepted=2,
        n_tested=5,
        sum_beta=2.0,
        draft_s=0.1,
        target_s=0.7,
        draft_step_s=0.02,
        target_pass_s=0.4,
        wall_s=0.8,
    ),
    row(
        method="trimmed-8",
        prompt_id="b",
        domain="maths",
        token_ids=(5,) * 10,
        n_passes=5,
        n_drafted=12,
        n_accepted=5,
        n_tested=9,
        sum_beta=5.5,
        draft_s=0.4,
        target_s=3.0,
        draft_step_s=None,
        target_pass_s=0.6,
        wall_s=5.0,
    ),
]
TRANSFORMERS = [
    row(
        method="transformers",
        n_passes=2,
        n_drafted=None,
        n_accepted=None,
        n_tested=None,
        sum_beta=None,
        draft_s=None,
        target_s=None,
        target_pass_s=None,
        wall_s=1.5,
    )
]


def summaries(rows: list[Row]) -> dict[str, MethodSummary]:
    return {s.method: s for s in summarize(rows, METHODS, draft_len=4)}


@pytest.fixture(scope="module")
def own() -> dict[str, MethodSummary]:
    return summaries([*AR, *UNTRIMMED, *TRIMMED])


def test_sums_and_speed(own: dict[str, MethodSummary]) -> None:
    assert list(own) == ["ar", "untrimmed", "trimmed-8"]
    untrimmed = own["untrimmed"]
    assert (untrimmed.n_runs, untrimmed.n_tokens, untrimmed.wall_s) == (2, 14, 5.0)
    assert untrimmed.tokens_per_s == 14 / 5  # not the mean of 4/1 and 10/4
    assert untrimmed.block_efficiency == 14 / 5
    assert own["ar"].block_efficiency == 1.0
    assert own["ar"].tokens_per_s == 12 / 8


def test_the_wall_speedup_and_its_paired_ratios(own: dict[str, MethodSummary]) -> None:
    over = own["untrimmed"].speedup_over("ar")
    assert over is not None
    assert over.totals == pytest.approx((14 / 5) / (12 / 8))
    # prompt a: 0.5 s a token against 0.25; prompt b: 0.75 against 0.4
    assert over.median.value == pytest.approx((2.0 + 1.875) / 2)
    assert over.quartiles == pytest.approx((1.875 + 0.125 / 4, 1.875 + 3 * 0.125 / 4))
    assert over.median.n == 2
    assert math.isnan(over.median.low)
    assert own["ar"].speedup_over("ar") is None
    assert [s.over for s in own["trimmed-8"].speedups] == ["ar", "untrimmed"]
    slower = own["ar"].speedup_over("untrimmed")
    assert slower is not None
    assert slower.totals == pytest.approx(1 / over.totals)


def test_the_split_is_of_the_whole_wall(own: dict[str, MethodSummary]) -> None:
    untrimmed = own["untrimmed"]
    assert (untrimmed.draft_s, untrimmed.target_s) == (1.0, 2.7)
    assert untrimmed.other_s == pytest.approx(5.0 - 1.0 - 2.7)


def test_acceptance_twice_with_the_clustered_intervals(own: dict[str, MethodSummary]) -> None:
    acceptance = own["untrimmed"].acceptance
    assert acceptance is not None
    assert acceptance.beta == clustered_ratio([3.0, 6.5], [4, 9])
    assert acceptance.counted == clustered_ratio([2, 7], [4, 9])
    assert acceptance.beta.value == 9.5 / 13
    assert acceptance.beta.n == 13
    assert own["ar"].acceptance is None
    domains = own["untrimmed"].acceptance_by_domain
    assert {name: d.beta.value for name, d in domains.items()} == {"code": 3 / 4, "maths": 6.5 / 9}
    assert math.isnan(domains["code"].beta.low)  # one prompt
    assert own["ar"].acceptance_by_domain == {}


def test_the_share_of_acceptance_that_is_kept(own: dict[str, MethodSummary]) -> None:
    kept = own["trimmed-8"].acceptance_kept
    assert kept is not None
    assert kept.value == pytest.approx((7.5 / 14) / (9.5 / 13))
    itself = own["untrimmed"].acceptance_kept
    assert itself is not None
    assert (itself.value, itself.low, itself.high) == (1.0, 1.0, 1.0)
    assert own["ar"].acceptance_kept is None


def test_costs_of_a_step_and_what_they_forecast(own: dict[str, MethodSummary]) -> None:
    untrimmed, trimmed = own["untrimmed"], own["trimmed-8"]
    assert (untrimmed.draft_step_s, untrimmed.target_pass_s) == (0.05, 0.5)
    assert trimmed.draft_step_s == 0.02  # of the run that knows it
    assert untrimmed.expected_speedup == pytest.approx(2.8 / (4 * 0.1 + 1))
    assert untrimmed.mbsu == pytest.approx(2.8 / (4 * 100 / 400 + 1))
    assert trimmed.mbsu == pytest.approx(2.0 / (4 * 60 / 400 + 1))
    assert own["ar"].expected_speedup is None
    assert own["ar"].mbsu is None


def test_greedy_tokens_are_compared_with_ar(own: dict[str, MethodSummary]) -> None:
    assert own["ar"].n_same_as_ar == 2
    assert own["untrimmed"].n_same_as_ar == 1  # prompt b came out longer
    sampled = [Row(**{**vars(r), "temperature": 1.0}) for r in [*AR, *UNTRIMMED]]
    assert [s.n_same_as_ar for s in summarize(sampled, METHODS, draft_len=4)] == [None, None]


def test_temperatures_do_not_mix() -> None:
    hot = [Row(**{**vars(r), "temperature": 1.0, "wall_s": 10 * r.wall_s}) for r in AR]
    cold, warm = summarize([*AR, *hot], METHODS, draft_len=4)
    assert (cold.temperature, warm.temperature) == (0.0, 1.0)
    assert cold.tokens_per_s == pytest.approx(10 * warm.tokens_per_s)


def test_repeats_of_a_prompt_are_one_pair() -> None:
    again = [Row(**{**vars(r), "repeat": 1, "wall_s": 3 * r.wall_s}) for r in AR]
    over = summaries([*AR, *again, *UNTRIMMED])["untrimmed"].speedup_over("ar")
    assert over is not None
    assert over.median.n == 2
    assert over.median.value == pytest.approx((2 * 2.0 + 2 * 1.875) / 2)


def test_what_transformers_does_not_tell_stays_unknown() -> None:
    made = summaries([*AR, *TRANSFORMERS])["transformers"]
    assert made.block_efficiency == 2.0
    over = made.speedup_over("ar")
    assert over is not None
    assert over.median.n == 1  # only prompt a was run by both
    for name in (
        "acceptance",
        "acceptance_kept",
        "draft_s",
        "other_s",
        "draft_step_s",
        "expected_speedup",
        "mbsu",
    ):
        assert getattr(made, name) is None, name


def test_json_has_no_nan(own: dict[str, MethodSummary]) -> None:
    told = own["untrimmed"].to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["speedups"][0]["median"]["low"] is None
    assert told["acceptance"]["beta"]["value"] == 9.5 / 13
