"""The sequential test on toy engines: right ones pass, each seeded fault is flagged, harmless ones are not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from faulty_engines import (
    FAULTS,
    HARMLESS,
    HOT,
    PROMPTS,
    DrafterReference,
    N,
    TableReference,
    ToyEngine,
    reference,
    target_logits,
)
from scipy.stats import binom

from outlex.conformance import CheckConfig, SequentialTest, Tolerance, Verification, verify_engine
from outlex.conformance.aims import Aim, Listed
from outlex.conformance.draw_log import DrawLog, JudgedDraw, Moment
from outlex.conformance.result import SampledResult
from outlex.errors import InputError, ModelError, NumericalError
from outlex.sampling import SamplingParams, probabilities


def check(engine: Any, params: SamplingParams | None = None, *, n_samples: int, **settings: Any) -> Verification:
    return verify_engine(
        engine,
        reference(),
        PROMPTS,
        CheckConfig(params=params or SamplingParams(), n_samples=n_samples, max_new_tokens=6, greedy_tokens=0),
        target_name="toy",
        **settings,
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_flagged(name: str) -> None:
    make, params = FAULTS[name]
    found = check(make(), params, n_samples=600, drafter=DrafterReference(), draft_ids=torch.tensor(HOT))
    assert found.sampled is not None
    assert found.sampled.flagged_at is not None, found.sampled
    assert not found.lossless_so_far
    assert found.sampled.log10_evidence >= 2
    assert found.sampled.strangest is not None


@pytest.mark.parametrize("name", HARMLESS)
def test_a_fault_that_keeps_the_law_is_not_flagged(name: str) -> None:
    found = check(HARMLESS[name](), n_samples=150, drafter=DrafterReference(), draft_ids=torch.tensor(HOT))
    assert found.lossless_so_far


@pytest.mark.parametrize(
    "params", [SamplingParams(top_k=6, top_p=0.9), SamplingParams(temperature=0.7, repetition_penalty=1.3)], ids=str
)
def test_a_right_engine_passes_under_filters_and_penalties(params: SamplingParams) -> None:
    found = check(ToyEngine(), params, n_samples=150)
    assert found.lossless_so_far
    assert found.sampled is not None
    assert (found.sampled.n_samples, found.sampled.n_draws) == (150, 900)


class _Drawing:
    """Draws straight from a law that may be off the reference's (protocol `Engine`)."""

    name, dtype = "drawing", "float32"

    def __init__(self, bias: torch.Tensor | None = None) -> None:
        self.bias = torch.zeros(N, dtype=torch.float64) if bias is None else bias

    def sample(self, prompt_ids: Any, *, params: Any, n_samples: int, max_new_tokens: int, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        outputs = []
        for _ in range(n_samples):
            ids: tuple[int, ...] = ()
            for _ in range(max_new_tokens):
                law = probabilities((target_logits((*prompt_ids, *ids)) + self.bias).unsqueeze(0), params)
                ids = (*ids, int(torch.multinomial(law, 1, generator=generator)))
            outputs.append(ids)
        return outputs


def test_the_whole_procedure_blames_a_right_engine_as_rarely_as_stated() -> None:
    # α = 0.1, so that 60 runs say something: under the null hypothesis 12 alarms or more are as rare as 2 %
    alarms, n_runs, alpha = 0, 60, 0.1
    for run in range(n_runs):
        test = SequentialTest(
            reference(), PROMPTS, params=SamplingParams(), tolerance=Tolerance(odds=0.0, edge=0.0), false_alarm=alpha
        )
        for turn in range(2):
            drawn = [
                (number, ids)
                for number, prompt in enumerate(PROMPTS)
                for ids in _Drawing().sample(
                    prompt, params=SamplingParams(), n_samples=8, max_new_tokens=3, seed=1000 * run + 10 * turn + number
                )
            ]
            test.judge(drawn)
        alarms += test.flagged_at is not None
    assert alarms <= binom.ppf(0.98, n_runs, alpha)


def test_tolerance_covers_rounding_and_no_more() -> None:
    # the odds of a third of the tokens are off by a third: within ε = 0.3, beyond ε = 0.005
    bias = torch.where(torch.arange(N) % 3 == 0, 0.29, 0.0).double()
    outputs = [
        [
            (number, ids)
            for number, prompt in enumerate(PROMPTS)
            for ids in _Drawing(bias).sample(
                prompt, params=SamplingParams(), n_samples=60, max_new_tokens=5, seed=turn * 10 + number
            )
        ]
        for turn in range(3)
    ]
    judged = {}
    for odds in (0.005, 0.3):
        test = SequentialTest(reference(), PROMPTS, params=SamplingParams(), tolerance=Tolerance(odds=odds, edge=0.0))
        judged[odds] = any(test.judge(turn) for turn in outputs)
    assert judged == {0.005: True, 0.3: False}


def test_a_report_says_where_and_how_much() -> None:
    make, params = FAULTS["target row off by one position"]
    found = check(make(), params, n_samples=100).sampled
    assert found is not None
    assert found.flagged_at is not None
    assert found.strangest is not None
    bet, place = found.strongest, found.strangest
    assert bet.direction == "too often"
    assert bet.observed > bet.most > bet.expected
    assert [share.position for share in bet.by_position] == list(range(6))
    assert sum(share.n_draws for share in bet.by_position) == bet.n_draws == found.n_draws_at_flag
    law = probabilities(target_logits((*PROMPTS[place.prompt], *place.prefix)).unsqueeze(0), params)[0]
    assert place.p == pytest.approx(float(law[place.token_id]))
    assert 1 <= place.n_token <= place.n_draws


def _judged(outputs: list[tuple[int, tuple[int, ...]]], *, top_k: int = 0) -> SampledResult:
    test = SequentialTest(
        reference(), PROMPTS, params=SamplingParams(top_k=top_k), tolerance=Tolerance(odds=0.005, edge=0.001)
    )
    test.judge(outputs)
    return test.result()


def _right(n_samples: int, *, top_k: int = 0) -> list[tuple[int, tuple[int, ...]]]:
    settings: dict[str, Any] = {"params": SamplingParams(top_k=top_k), "n_samples": n_samples, "max_new_tokens": 6}
    return [(2, ids) for ids in _Drawing().sample(PROMPTS[2], seed=5, **settings)]


def test_an_alarm_inside_a_round_is_laid_to_the_bet_that_raised_it_whatever_came_later() -> None:
    # two outputs repeat the prompt's last token, then the engine is right for so long that their evidence is gone
    said = PROMPTS[1][-1]
    outputs = [(1, (said,) * 6)] * 2 + _right(100)
    found = _judged(outputs)
    bet = found.strongest
    assert (bet.tokens, bet.direction) == ("a repetition of the token before", "too often")
    assert bet.n_draws == found.n_draws_at_flag == 4
    assert (bet.prompt, bet.position, bet.token_id) == (1, 3, said)
    assert bet == _judged([(1, (said,) * 4)]).strongest
    assert bet.observed == 1 > bet.most > bet.expected
    assert bet.log10_evidence >= 2


def test_a_token_that_cannot_be_drawn_is_reported_only_if_it_raised_the_alarm() -> None:
    forbidden = [(1, (int(target_logits(tuple(PROMPTS[1])).argmin()),))]
    raised = _judged([*_right(1, top_k=6), *forbidden], top_k=6).strongest
    assert raised.log10_evidence == math.inf
    assert [(raised.prompt, raised.position, raised.token_id)] == [(1, 0, forbidden[0][1][0])]
    ids: tuple[int, ...] = ()
    for _ in range(20):  # always the last one that the filter lets through
        ids = (*ids, int(target_logits((*PROMPTS[1], *ids)).topk(6).indices[-1]))
    before = _judged([(1, ids), *forbidden], top_k=6).strongest
    assert 2 <= before.log10_evidence < math.inf
    assert before.n_draws < 20


def test_without_an_alarm_the_bet_is_the_strongest_where_the_evidence_was_highest() -> None:
    outputs = [(1, (PROMPTS[1][-1],) * 3), *_right(60)]
    found = _judged(outputs)
    assert found.flagged_at is None
    bet = found.strongest
    assert (bet.tokens, bet.n_draws) == ("a repetition of the token before", 3)
    assert (bet.prompt, bet.position, bet.token_id) == (1, 2, PROMPTS[1][-1])
    assert bet == _judged(outputs[:1]).strongest
    assert bet.log10_evidence > 2 > found.log10_evidence


def test_a_set_that_nothing_was_bet_on_is_not_named() -> None:
    # the second set is empty: its account lost nothing, and is higher than the first one's
    log = DrawLog()
    log.add(
        [JudgedDraw(0, 0, 3)],
        masses=torch.tensor([[0.5, 0.0]]).double(),
        bounds=torch.tensor([[0.5, 0.0]]).double(),
        inside=torch.tensor([[False, False]]),
    )
    empty = torch.zeros(N, dtype=torch.bool)
    aims: list[Aim] = [Listed("half of all", torch.arange(N) < N / 2), Listed("none", empty)]
    moment = Moment(n_draws=1, log_evidence=-0.05, log_by_bet=torch.tensor([-0.1, 0.0]).double())
    assert log.strongest(aims, [(0, True), (1, True)], moment).tokens == "half of all"


def test_nothing_is_told_before_something_was_judged() -> None:
    test = SequentialTest(reference(), PROMPTS, params=SamplingParams(), tolerance=Tolerance(odds=0.0, edge=0.0))
    with pytest.raises(InputError, match="judged") as refused:
        test.result()
    assert "`judge`" in str(refused.value)


class _Broken(_Drawing):
    def __init__(self, outputs: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.outputs = outputs

    def sample(self, prompt_ids: Any, *, params: Any, n_samples: int, max_new_tokens: int, seed: int) -> Any:
        return self.outputs


@pytest.mark.parametrize("outputs", [[], [()], [(N,)], [(1,) * 7], [(-1,)]], ids=str)
def test_an_engine_that_returns_nonsense_is_an_error_and_no_verdict(outputs: list[tuple[int, ...]]) -> None:
    with pytest.raises(ModelError, match="did not return") as refused:
        check(_Broken(outputs), n_samples=1)
    assert "--target" in str(refused.value)


def test_a_reference_without_numbers_is_an_error_and_no_verdict() -> None:
    broken = TableReference(lambda _: torch.full((N,), torch.nan))
    for greedy_tokens in (0, 2):
        config = CheckConfig(n_samples=2, greedy_tokens=greedy_tokens)
        with pytest.raises(NumericalError, match="reference") as refused:
            verify_engine(ToyEngine(), broken, PROMPTS, config, target_name="toy")
        assert "--target" in str(refused.value)


def test_settings_that_cannot_be_checked_are_refused() -> None:
    with pytest.raises(InputError, match="Nothing is left"):
        CheckConfig(params=SamplingParams(temperature=0.0), greedy_tokens=0)
    for wrong in ({"n_samples": 0}, {"max_new_tokens": 0}, {"greedy_tokens": -1}, {"false_alarm": 0.0}):
        with pytest.raises(InputError, match="cannot be run") as refused:
            CheckConfig(**wrong)
        assert "2000 samples" in str(refused.value)
    with pytest.raises(InputError, match="cannot be tested") as refused:
        SequentialTest(
            reference(), PROMPTS, params=SamplingParams(temperature=0.0), tolerance=Tolerance(odds=0, edge=0)
        )
    assert "check_greedy" in str(refused.value)
    with pytest.raises(InputError, match="no prompts"):
        verify_engine(ToyEngine(), TableReference(target_logits), [], CheckConfig(), target_name="toy")
