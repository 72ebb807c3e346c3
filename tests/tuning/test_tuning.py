"""Fitting proposals: λ is honest, TLI is the floor, a proposal that can win does, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fitted_heads import fitted
from toy_traces import head
from tuning_builders import N_HOT, N, mapping_pair, toy_pair, toy_trimmed, trimmed_of

from outlex.drafters import TrimmedDrafter
from outlex.errors import InputError, MismatchError, NumericalError
from outlex.proposals import ColdRow, ColdRows, Mixed, Tli
from outlex.proposals.mixed import GRID
from outlex.sampling import SamplingParams, probabilities
from outlex.tuning import FAMILIES, Tuned, TuneSettings, tune
from outlex.tuning.evidence import gather_evidence
from outlex.tuning.gain_table import GainTable, gain_table
from outlex.tuning.recipes import recipes_of


def tuned(
    family: str = "auto", *, pair: Any = None, artifact: Any = None, traces: Any = None, **settings: Any
) -> Tuned:
    target, drafter, own = pair or toy_pair()
    return tune(
        [own] if traces is None else traces,
        artifact or trimmed_of(drafter),
        target_head=target,
        drafter_head=drafter,
        settings=TuneSettings(family=family, **settings),
        spellings=[bytes([i]) for i in range(N)],
    )


def table_of(n: int = 60, *, seed: int = 0, edges: bool = True) -> GainTable:
    """Random concave gains of two proposals at two temperatures."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.tensor(GRID).double()

    def gains() -> torch.Tensor:
        slope = torch.randn(n, 1, generator=generator, dtype=torch.float64) * 0.2 + 0.05
        return slope * grid - 0.2 * grid**2

    return GainTable(
        temperatures=(0.5, 1.0),
        gains={(i, t): gains() for i in range(2) for t in (0.5, 1.0)},
        mass={t: torch.rand(n, generator=generator) if edges else torch.zeros(n) for t in (0.5, 1.0)},
        prompts={t: torch.arange(n) // 3 for t in (0.5, 1.0)},
    )


# what only drafters with another tokenizer can use is in test_cross_tuning.py
ONE_TOKENIZER = tuple(family for family in FAMILIES if family != "respelled")


@pytest.mark.parametrize("family", ["auto", "tli", *ONE_TOKENIZER])
def test_every_family_gives_an_artifact_with_the_best_trial_and_never_less_than_tli(family: str) -> None:
    found = tuned(family, temperatures=(0.7, 1.0))
    assert found.comparison.trials[0].name == "tli"
    assert found.comparison.chosen in found.comparison.trials
    assert found.comparison.chosen.mode != "alone"
    assert isinstance(found.artifact, TrimmedDrafter)
    assert found.artifact.proposal is found.comparison.chosen.proposal
    names = {trial.name.split(",")[0] for trial in found.comparison.trials[1:]}
    assert names == (set(ONE_TOKENIZER) if family == "auto" else {family} - {"tli"})
    for trial in found.comparison.trials:
        for temperature in (0.7, 1.0):
            tli, own = found.comparison.trials[0].acceptance[temperature], trial.acceptance[temperature]
            assert trial.gain[temperature].value == pytest.approx(own.value - tli.value, abs=1e-9)
            if trial.weights is not None and not any(map(any, trial.weights)):
                assert own == tli  # λ = 0 is TLI
    assert all(gain.value >= 0 for gain in found.comparison.chosen.expected.values())
    assert found.n_prompts == {"fit": 20, "calibrate": 12, "held_out": 8}


def test_a_kernel_that_knows_the_cold_tokens_wins() -> None:
    # wherever the drafter says i the target says a cold token that goes with i
    target, drafter, traces = mapping_pair()
    found = tuned("auto", pair=(target, drafter, traces))
    assert found.comparison.chosen.proposal is not None
    assert found.comparison.chosen.gain[1.0].low > 0.3
    assert "95 % confidence" in found.comparison.reason
    stored = found.artifact.stored
    assert stored is not None
    assert stored.n_target == N
    # greedy drafting was not asked for, so it stays TLI
    mixed = stored.proposal
    assert isinstance(mixed, Mixed)
    assert mixed.temperatures[0] == 0.0
    assert not any(mixed.weights[0])
    assert found.comparison.chosen.weights is not None
    assert any(map(any, found.comparison.chosen.weights))


def test_a_pair_with_nothing_to_restore_keeps_tli() -> None:
    # hardly any of the target's mass is cold, and what is cold is noise
    found = tuned("auto", artifact=toy_trimmed(list(range(N - 1))))
    assert found.comparison.chosen.name == "tli"
    assert found.artifact.proposal is None
    assert found.artifact.stored is not None
    assert found.artifact.stored.name == "tli"
    assert "no proposal gains" in found.comparison.reason


def test_gains_are_those_of_the_laws() -> None:
    target, drafter, traces = toy_pair()
    trimmed = toy_trimmed()
    draft_head = trimmed.head_from(drafter, n_target=N)
    cold = ColdRows(weight=drafter.weight, ids=torch.arange(N_HOT, N))
    proposal = ColdRow.fit(cold, n_target=N, rank=4)
    part = traces.select(range(6))
    table = gain_table(
        {1.0: [part]}, draft_head, [proposal], estimator=proposal, target_head=target, on_progress=lambda n, total: None
    )
    scores = draft_head.score(part.drafter_hidden)
    p, params = probabilities(target.logits(part.target_hidden), SamplingParams()).double(), SamplingParams()
    q, r = Tli().law(scores, params).dense().double(), proposal.law(scores, params).dense().double()
    for at, share in enumerate(GRID):
        wanted = torch.minimum(p, (1 - share) * q + share * r).sum(-1) - torch.minimum(p, q).sum(-1)
        torch.testing.assert_close(table.gains[0, 1.0][:, at], wanted, rtol=0, atol=2e-5)  # p below 1e-7 left out
    torch.testing.assert_close(table.mass[1.0], proposal.cold_mass(scores, params))


def test_on_the_calibration_prompts_every_choice_is_at_least_tli() -> None:
    for seed in range(20):
        table = table_of(seed=seed)
        for proposal in range(2):
            for mode in table.modes:
                weights = table.weights(proposal, mode)
                gains = [table.gain(proposal, mode, weights, t) for t in table.temperatures]
                assert float(torch.cat(gains).mean()) >= 0
                if mode != "one λ":
                    assert all(float(gain.mean()) >= 0 for gain in gains)


def test_ways_of_choosing_that_cannot_differ_are_left_out() -> None:
    assert table_of().modes == ("one λ", "λ by temperature", "λ by cold mass")
    assert table_of(edges=False).modes == ("one λ", "λ by temperature")


def test_no_prompt_helps_to_choose_its_own_weight() -> None:
    # one fold gains enormously, and only at λ = 1: it must not see that λ
    table = table_of(n=50)
    prompts = torch.arange(50)
    grid = torch.tensor(GRID).double()
    lucky = prompts % 5 == 0
    gains = torch.where(lucky.unsqueeze(-1), 5 * grid, -grid)
    gains = gains + 0.01 * torch.arange(50).unsqueeze(-1) * grid
    odd = GainTable(temperatures=(1.0,), gains={(0, 1.0): gains}, mass={1.0: torch.zeros(50)}, prompts={1.0: prompts})
    honest = odd.honest_gain(0, "one λ")[1.0]
    assert float(honest[lucky].sum()) == 0
    assert table.honest_gain(0, "one λ").keys() == {0.5, 1.0}


def test_evidence_is_what_the_laws_say() -> None:
    target, drafter, traces = toy_pair()
    trimmed = toy_trimmed()
    evidence = gather_evidence(
        [traces],
        trimmed.head_from(drafter, n_target=N),
        static_ids=trimmed.vocab.draft_to_target,
        target_head=target,
        drafter_head=drafter,
        temperature=1.0,
        spellings=None,
        on_progress=lambda n, total: None,
    )
    p = target.logits(traces.target_hidden).softmax(-1)
    torch.testing.assert_close(evidence.prior, p.mean(0), rtol=1e-5, atol=1e-7)
    assert evidence.cold_ids.tolist() == list(range(N_HOT, N))
    assert evidence.n_draft == N_HOT
    assert sorted(evidence.sources(N).tolist()) == list(range(N_HOT))
    columns = torch.tensor([3, 50, 90])
    torch.testing.assert_close(evidence.at(evidence.target_ids, evidence.target_probs, columns), p[:, columns])
    names = {recipe.name for recipe in recipes_of(evidence, "auto")}
    assert not any("string-prefix" in name for name in names)  # no spellings were given
    assert "rdk-exact, covariance" in names


def test_what_cannot_be_tuned_is_refused_with_a_remedy() -> None:
    target, drafter, traces = toy_pair()
    with pytest.raises(InputError, match="auto fits and compares"):
        TuneSettings(family="rdk")
    for wrong in ((1.0, 1.0), (-1.0,), (float("nan"),)):
        with pytest.raises(InputError, match="each --temperature once"):
            TuneSettings(temperatures=wrong)
    with pytest.raises(InputError, match=r"leave it at 0\.5"):
        TuneSettings(fit_share=1.0)
    with pytest.raises(InputError, match="outlex trace"):
        tuned(traces=[])
    with pytest.raises(InputError, match="trace more prompts"):
        tuned(traces=[traces.select(range(11))])
    with pytest.raises(InputError, match="decode greedily with TLI"):
        tuned(temperatures=(0.0,))
    with pytest.raises(InputError, match="nothing to restore"):
        tuned(artifact=toy_trimmed(list(range(N))))
    other = trimmed_of(head(N, 12, seed=9))
    with pytest.raises(MismatchError, match="trim this one anew"):
        tuned(artifact=other)
    vocab = replace(toy_trimmed().vocab, tokenizer_fingerprint="another")
    with pytest.raises(MismatchError, match="trim a drafter of the traced pair"):
        tuned(artifact=replace(toy_trimmed(), vocab=vocab))
    with pytest.raises(MismatchError, match="target"):
        tune([traces], toy_trimmed(), target_head=drafter, drafter_head=drafter, settings=TuneSettings())
    broken = replace(target, weight=torch.full_like(target.weight, torch.nan))
    with pytest.raises((NumericalError, MismatchError)):
        tune([traces], toy_trimmed(), target_head=broken, drafter_head=drafter, settings=TuneSettings())


def test_a_preview_head_is_refused() -> None:
    with pytest.raises(InputError, match="decode with TLI"):
        tuned(artifact=fitted("preview"))
