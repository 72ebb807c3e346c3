"""Forecasts against decoding with the same models, and what they say about few prompts, costs and lists."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model, tiny_pair

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, trim
from outlex.calibration.collect import TraceRequest, collect_traces
from outlex.calibration.traces import TraceSet
from outlex.decode import Generation
from outlex.errors import InputError, MismatchError
from outlex.forecast import Forecast, StepTimes, forecast, measure_step_times
from outlex.forecast.table import renderable
from outlex.forecast.verdicts import kept_by_a_traced_list
from outlex.metrics import clustered_ratio
from outlex.models.output_head import output_head
from outlex.vocab.tokenizer_facts import facts_of

N_PROMPTS = 24
N_TOKENS = 20


def vocab(size: int, *, seed: int = 3) -> SubVocab:
    facts = facts_of(byte_tokenizer())
    order = torch.randperm(256, generator=torch.Generator().manual_seed(seed)) + 1
    return SubVocab(
        draft_to_target=torch.cat([order[: size - 1], torch.tensor([0])]),
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
    )


def prompt_ids(i: int) -> list[int]:
    ids: list[int] = torch.randint(0, 256, (3 + i % 5,), generator=torch.Generator().manual_seed(i)).tolist()
    return ids


@cache
def traces_at(temperature: float, directory: Path) -> TraceSet:
    requests = [
        TraceRequest(id=f"p{i}", domain="even" if i % 2 == 0 else "odd", prompt_ids=tuple(prompt_ids(i)))
        for i in range(N_PROMPTS)
    ]
    return collect_traces(
        *tiny_pair(), requests, directory / str(temperature), max_new_tokens=N_TOKENS, temperature=temperature
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forecast")


def made(traces: TraceSet | list[TraceSet], candidates: list[Any], **changes: Any) -> Forecast:
    target, drafter = tiny_pair()
    options: dict[str, Any] = {
        "target_head": output_head(target),
        "drafter_head": output_head(drafter),
        "temperatures": [1.0],
        "draft_lens": [3],
    }
    return forecast(traces, candidates=candidates, **{**options, **changes})


def decoded(size: int | None, *, draft_len: int, temperature: float, n_repeats: int = 1) -> list[list[Generation]]:
    """What decoding the traced prompts gives: repeats of each prompt."""
    target, drafter = tiny_pair()
    trimmed = None if size is None else trim(drafter, vocab(size))
    decoder = SpeculativeDecoder(target, drafter, trimmed=trimmed, draft_len=draft_len)
    return [
        [
            decoder.generate(
                prompt_ids(i),
                max_new_tokens=N_TOKENS,
                params=SamplingParams(temperature=temperature),
                seed=1000 * repeat + i,
                measure=True,
            )
            for repeat in range(n_repeats)
        ]
        for i in range(N_PROMPTS)
    ]


@pytest.mark.parametrize(("size", "draft_len"), [(None, 1), (None, 4), (120, 4)])
def test_greedy_decoding_does_exactly_what_was_forecast(folder: Path, size: int | None, draft_len: int) -> None:
    result = made(
        traces_at(0.0, folder), [] if size is None else [vocab(size)], temperatures=[0.0], draft_lens=[draft_len]
    )
    cell = result.cell("untrimmed" if size is None else f"trimmed-{size}", temperature=0.0, draft_len=draft_len)
    runs = [run for of_prompt in decoded(size, draft_len=draft_len, temperature=0.0) for run in of_prompt]
    n_tested = sum(run.n_tested for run in runs)
    assert cell.block_efficiency.value == pytest.approx(
        sum(run.n_tokens for run in runs) / sum(len(run.steps) for run in runs)
    )
    assert cell.acceptance_rate.value == pytest.approx(sum(run.n_accepted for run in runs) / n_tested)
    assert cell.acceptance_rate.n == n_tested
    assert cell.n_positions == sum(run.n_tokens for run in runs)


@pytest.mark.parametrize("size", [None, 120])
def test_sampled_decoding_does_what_was_forecast(folder: Path, size: int | None) -> None:
    cell = made(traces_at(1.0, folder), [] if size is None else [vocab(size)]).cells[0 if size is None else 3]
    assert cell.domain is None
    runs = decoded(size, draft_len=3, temperature=1.0, n_repeats=2)
    measured = clustered_ratio(
        [sum(sum(run.overlaps) for run in own) for own in runs], [sum(run.n_tested for run in own) for own in runs]
    )
    tau = clustered_ratio(
        [sum(run.n_tokens for run in own) for own in runs], [sum(len(run.steps) for run in own) for own in runs]
    )
    for got, wanted in ((cell.acceptance_rate, measured), (cell.block_efficiency, tau)):
        half = math.hypot(got.high - got.value, wanted.high - wanted.value)  # 95 % of the difference
        assert abs(got.value - wanted.value) < 1.5 * half
        assert half < 0.25 * wanted.value, "an interval so wide proves nothing"


def test_cells_cover_the_grid_and_its_domains(folder: Path) -> None:
    sets = [traces_at(1.0, folder), traces_at(0.0, folder)]
    result = made(sets, [vocab(30), vocab(120)], temperatures=[0.0, 1.0], draft_lens=[2, 5])
    assert len(result.cells) == 2 * 2 * 3 * 3
    assert len(result.verdicts) == 2 * 2 * 2
    assert not [note for note in result.notes if "other text" in note]
    for cell in result.cells:
        assert cell.mean_beta.value <= cell.ceiling + 1e-6
        assert 1 <= cell.block_efficiency.value <= cell.draft_len + 1
        assert cell.n_prompts == (N_PROMPTS if cell.domain is None else N_PROMPTS // 2)
    for temperature in (0.0, 1.0):
        parts = [result.cell("trimmed-30", temperature=temperature, draft_len=2, domain=d) for d in ("even", "odd")]
        whole = result.cell("trimmed-30", temperature=temperature, draft_len=2)
        assert sum(p.mean_beta.value * p.n_positions for p in parts) == pytest.approx(
            whole.mean_beta.value * whole.n_positions
        )
        betas = [
            result.cell(name, temperature=temperature, draft_len=2).oov_mass.value
            for name in ("untrimmed", "trimmed-120", "trimmed-30")
        ]
        assert betas == sorted(betas)
    with pytest.raises(KeyError):
        result.cell("trimmed-31", temperature=0.0, draft_len=2)
    body = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert body["cells"][0]["ceiling"] == pytest.approx(result.cells[0].ceiling)


def test_another_temperature_is_forecast_with_a_warning(folder: Path) -> None:
    result = made([traces_at(0.0, folder), traces_at(1.0, folder)], [vocab(30)], temperatures=[0.8, 1.0])
    (note,) = [note for note in result.notes if "other text" in note]
    assert "T = 0.8" in note
    assert "sampled at T = 1" in note
    assert "outlex trace --temperature 0.8" in note


def test_too_few_prompts_are_said_to_be_too_few(folder: Path) -> None:
    traces = traces_at(1.0, folder)
    one = made(traces.select([0]), [vocab(30)])
    assert math.isnan(one.cells[0].acceptance_rate.low)
    (note,) = [note for note in one.notes if "few prompts" in note]
    assert "all 1" in note
    assert "no interval can be given" in note
    assert "no interval" in one.verdicts[0].sentence
    assert one.to_json()["cells"][0]["acceptance_rate"]["low"] is None
    places = [[i for i, prompt in enumerate(traces.prompts) if prompt.domain == name] for name in ("even", "odd")]
    notes = made(traces.select(places[0] + places[1][:2]), []).notes
    assert [note for note in notes if "interval" in note] == [
        "There are few prompts (odd 2), so intervals are wide, and rough themselves."
    ]
    assert not any("interval" in note for note in made(traces, [vocab(30)]).notes)


def times(full_s: float, small_s: float, *, target_s: float = 1.0) -> StepTimes:
    return StepTimes(target_pass_s={0: target_s, 5: target_s}, draft_step_s={20: small_s, 260: full_s}, source="a test")


def test_speeds_follow_from_the_step_times(folder: Path) -> None:
    traces = traces_at(1.0, folder)
    slow = replace(times(0.5, 0.1), target_prompt_s=0.01, draft_prompt_s=0.02)
    result, with_prompt = (made(traces, [vocab(20)], times=t) for t in (times(0.5, 0.1), slow))
    for name, step_s in (("untrimmed", 0.5), ("trimmed-20", 0.1)):
        cell, other = (r.cell(name, temperature=1.0, draft_len=3) for r in (result, with_prompt))
        assert cell.expected_speedup is not None
        assert cell.tokens_per_s is not None
        assert other.tokens_per_s is not None
        # nearly τ / (γ·c + 1): the last blocks before max_new_tokens propose fewer drafts
        plain = cell.block_efficiency.value / (3 * step_s + 1)
        assert plain <= cell.expected_speedup < plain * 1.1
        assert cell.tokens_per_s == pytest.approx(cell.expected_speedup)  # the target alone makes one a second
        assert other.expected_speedup == pytest.approx(cell.expected_speedup)
        reading = 0.03 * sum(prompt.n_prompt for prompt in traces.prompts)
        assert len(traces) / other.tokens_per_s == pytest.approx(len(traces) / cell.tokens_per_s + reading)
    trimmed, untrimmed = (result.cell(n, temperature=1.0, draft_len=3) for n in ("trimmed-20", "untrimmed"))
    assert trimmed.over_untrimmed.value == pytest.approx((trimmed.tokens_per_s or 0) / (untrimmed.tokens_per_s or 1))
    assert untrimmed.over_untrimmed.value == pytest.approx(1)


def test_times_that_do_not_reach_are_said_not_to(folder: Path) -> None:
    result = made(traces_at(1.0, folder), [vocab(10)], times=times(0.5, 0.1), draft_lens=[3, 6])
    (note,) = [note for note in result.notes if "do not reach" in note]
    assert "10 rows" in note
    assert "draft length 6" in note
    assert all(cell.tokens_per_s is None and not math.isnan(cell.mbsu) for cell in result.cells)
    assert "bytes" in result.verdicts[0].sentence


def test_the_verdict_follows_the_gate(folder: Path) -> None:
    traces = traces_at(1.0, folder)
    result = made(traces, [vocab(200)], times=times(5.0, 0.1))
    (cheap,) = result.verdicts
    assert cheap.decision == "trim"
    assert cheap.kept > cheap.needed
    # the last blocks propose fewer drafts, so a little less than (1 + νκ) / (1 + κ) of full blocks would say is saved
    assert cheap.needed == pytest.approx((1 + 3 * (0.1 + 4.9 * 180 / 240)) / (1 + 3 * 5.0), abs=0.03)
    assert (cheap.kept > cheap.needed) == (result.cells[3].over_untrimmed.value > 1)
    # nothing is saved, and a list of 20 random bytes loses: no list of that size can help
    (dear,) = made(traces, [vocab(20)], times=times(0.1, 0.1)).verdicts
    assert dear.decision == "do not trim"
    assert dear.needed == pytest.approx(1, abs=0.01)
    assert "do not trim" in dear.sentence
    for verdict in (cheap, dear):
        assert f"{verdict.kept:.1%}" in verdict.sentence
        assert f"{verdict.needed:.1%}" in verdict.sentence


def test_a_list_that_others_beat_is_to_be_changed(folder: Path) -> None:
    traces = traces_at(1.0, folder)
    counts = torch.bincount(traces.token_ids, minlength=257)[:257]
    coldest = counts.argsort()[:128].sort().values
    bad = replace(vocab(128), draft_to_target=coldest)
    (verdict,) = made(traces, [bad], times=times(1.0, 0.1)).verdicts
    assert verdict.decision == "change the list"
    assert "ranked on half of these prompts" in verdict.sentence


def test_a_traced_list_is_judged_on_prompts_it_has_not_seen() -> None:
    masses = torch.tensor([[4.0, 3.0, 2.0, 1.0], [0.0, 1.0, 2.0, 7.0]], dtype=torch.float64)
    # the best two of the first half are 0, 1 (0.1 of the second); of the second half 3, 2 (0.3 of the first)
    assert kept_by_a_traced_list(masses, (10, 10), 2) == pytest.approx(0.2)
    assert kept_by_a_traced_list(masses, (10, 10), 9) == pytest.approx(1)
    assert kept_by_a_traced_list(masses, (10, 0), 2) is None


def test_trimmed_drafters_and_vocabularies_give_the_same(folder: Path) -> None:
    result = made(traces_at(1.0, folder), [trim(tiny_pair()[1], vocab(30)), vocab(30)])
    a, b = (result.cell(f"trimmed-30#{i}", temperature=1.0, draft_len=3) for i in (1, 2))
    assert a == replace(b, candidate=a.candidate)


def test_what_does_not_belong_together_is_refused(folder: Path) -> None:
    traces, other = traces_at(1.0, folder), tiny_model(name="other", seed=8, n_layers=1)
    with pytest.raises(MismatchError, match="another tokenizer"):
        made(traces, [replace(vocab(30), tokenizer_fingerprint="0" * 64)])
    with pytest.raises(MismatchError, match="outlex trace") as caught:
        made(traces, [], drafter_head=output_head(other))
    assert "another drafter" in str(caught.value)
    with pytest.raises(MismatchError, match="cut from another drafter"):
        made(traces, [trim(other, vocab(30))])


@pytest.mark.parametrize(
    "changes",
    [
        {"temperatures": []},
        {"temperatures": [1.0, 1.0]},
        {"temperatures": [-1.0]},
        {"draft_lens": []},
        {"draft_lens": [0]},
        {"draft_lens": [2, 2]},
    ],
)
def test_options_out_of_range_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        made(traces_at(1.0, folder), [], **changes)
    with pytest.raises(InputError, match="--traces"):
        made([], [])


def test_progress_counts_positions(folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    sets = [traces_at(1.0, folder), traces_at(0.0, folder)]
    made(sets, [], temperatures=[0.0, 1.0], on_progress=lambda *news: told.append(news))
    n = sum(map(len, sets))
    assert told[-1][:2] == (n, n)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_the_table_shows_what_was_forecast(folder: Path) -> None:
    from rich.console import Console

    result = made(traces_at(1.0, folder), [vocab(30)], times=times(0.5, 0.1))
    console = Console(width=160, file=io.StringIO())
    console.print(renderable(result))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    cell = result.cell("trimmed-30", temperature=1.0, draft_len=3)
    for needle in ("trimmed-30", "T = 1, γ = 3", "by domain", "even", f"{cell.block_efficiency.value:.2f} ±"):
        assert needle in text
    assert result.verdicts[0].sentence[:40] in text


def test_step_times_are_measured_for_everything_asked(folder: Path) -> None:
    del folder
    target, drafter = tiny_pair()
    told: list[int] = []
    got = measure_step_times(
        target,
        drafter,
        sizes=[30, 60],
        draft_lens=[2, 4],
        repeats=2,
        on_progress=lambda n, total, label: told.append(n),
    )
    assert sorted(got.draft_step_s) == [30, 60, 260]
    assert sorted(got.target_pass_s) == [0, 2, 4]
    assert told == [0, 1, 2]
    assert got.target_prompt_s > 0
    assert got.draft_step(45) == pytest.approx((got.draft_step_s[30] + got.draft_step_s[60]) / 2)
    assert got.draft_step(29) is None
    assert got.target_pass(5) is None
    assert got.at(1.0) is got
    assert got.greedy is not None
    assert got.at(0.0) is got.greedy
    assert sorted(got.greedy.draft_step_s) == [30, 60, 260]
    assert got.greedy.draft_step_s != got.draft_step_s
    for bad in ({"sizes": [0]}, {"sizes": [261]}, {"draft_lens": [0]}, {"repeats": 0}):
        with pytest.raises(InputError, match="--sizes or --draft-len"):
            measure_step_times(target, drafter, **{"sizes": [30], "draft_lens": [2], **bad})  # type: ignore[arg-type]


def test_greedy_decoding_has_times_of_its_own(folder: Path) -> None:
    both = replace(times(0.5, 0.1), greedy=times(0.3, 0.05))
    alike, apart = (
        made(traces_at(1.0, folder), [vocab(20)], temperatures=[0.0, 1.0], times=t) for t in (times(0.5, 0.1), both)
    )
    for size in ("untrimmed", "trimmed-20"):
        one, other = (result.cell(size, temperature=1.0, draft_len=3) for result in (alike, apart))
        assert one.tokens_per_s == other.tokens_per_s
        slow, fast = (result.cell(size, temperature=0.0, draft_len=3) for result in (alike, apart))
        assert (fast.tokens_per_s or 0.0) > (slow.tokens_per_s or 0.0) > 0.0


@pytest.mark.parametrize("bad", [{"target_pass_s": {}}, {"draft_step_s": {3: 0.0}}, {"draft_prompt_s": math.nan}])
def test_step_times_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--measure"):
        replace(times(1.0, 1.0), **bad)
