"""Pairs with two tokenizers through fit, forecast and experiments: rows of the drafter are not ids of the target."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from toy_traces import head, random_traces

from outlex.calibration.head_files import Translation
from outlex.calibration.traces import TraceSet
from outlex.drafters import TrimmedDrafter
from outlex.drafters.artifacts import proposal_of
from outlex.drafters.retokenizing import retokenized_head
from outlex.errors import InputError, MismatchError
from outlex.experiments import Setup, run_experiment
from outlex.forecast import forecast
from outlex.heads.linear import LinearHead, trim_head
from outlex.proposals import Mixed, Respelled, Tli
from outlex.sampling import SamplingParams, probabilities
from outlex.tuning import TuneSettings, tune
from outlex.tuning.settings import split_prompts
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.token_map import TokenMap

N, ROWS, D = 64, 40, 12
# drafter row i is token 50 − i of the target; the last ten rows are the drafter's own and begin with tokens 55 to 64
FIRST = torch.cat([50 - torch.arange(30), 54 + torch.arange(10)])
SHARED = TokenMap(FIRST.masked_fill(torch.arange(ROWS) >= 30, -1), n_draft=ROWS, n_target=N)
TRANSLATION = Translation(shared=SHARED, first_ids=FIRST)


@cache
def pair() -> tuple[LinearHead, LinearHead, TraceSet]:
    """The target says what the drafter says, in its own tokens; 40 prompts of 12 positions in two domains."""
    drafter = head(ROWS, D, seed=1)
    weight = torch.full((N, D), 0.0)
    weight[:, 0] = -3.0
    weight[FIRST] = drafter.weight
    target = LinearHead(weight=weight)
    traces = random_traces(target, drafter, [12] * 40)
    states = traces.drafter_hidden.clone()
    states[:, 0] = states[:, 0].abs() + 1
    prompts = tuple(replace(one, domain="ab"[i % 2]) for i, one in enumerate(traces.prompts))
    header = replace(traces.header, prompts=prompts, drafter_tokenizer="own")
    return target, drafter, replace(traces, header=header, target_hidden=states, drafter_hidden=states)


def trimmed(rows: torch.Tensor) -> TrimmedDrafter:
    _, drafter, _ = pair()
    vocab = SubVocab(
        draft_to_target=rows,
        n_target=ROWS,
        n_tokenizer=ROWS,
        tokenizer_fingerprint="own",
        provenance={"from": "a test"},
    )
    return TrimmedDrafter(
        vocab=vocab, linear=trim_head(drafter, vocab).linear, base_name="m", base_source="m", base_n_rows=ROWS
    )


def setup(**settings: object) -> Setup:
    target, drafter, traces = pair()
    given = {"sizes": (30,), "family": "respelled", **settings}
    return Setup(traces=traces, target_head=target, drafter_head=drafter, translation=TRANSLATION, **given)  # type: ignore[arg-type]


def test_tokens_that_only_the_drafter_has_win_and_are_stored_for_this_target_alone() -> None:
    target, drafter, traces = pair()
    artifact = trimmed(torch.tensor([0, 3, *range(10, 40)]))
    found = tune(
        [traces],
        artifact,
        target_head=target,
        drafter_head=drafter,
        translation=TRANSLATION,
        settings=TuneSettings(),
        spellings=[bytes([65 + i]) for i in range(N)],
    )
    chosen = found.comparison.chosen
    assert chosen.name == "respelled"
    assert chosen.gain[1.0].low > 0.02
    # nothing that is a matter of ids only may be missing for a pair like this
    families = {trial.name.split(",")[0] for trial in found.comparison.trials}
    assert families == {"tli", "respelled", "rdk-exact", "rdk-first-order", "sparse-kernel", "cold-row", "learned"}
    assert not any("head-cosine" in trial.name for trial in found.comparison.trials)
    # the prompts that others were fitted to are as good as the rest for what nothing is fitted for
    fit, calibrate, _ = split_prompts(traces, TuneSettings())
    for trial in found.comparison.trials[1:]:
        judged = len(calibrate.target_hidden) + (len(fit.target_hidden) if trial.name == "respelled" else 0)
        assert trial.expected[1.0].n == judged, trial.name
    mixed = proposal_of(found.artifact, n_target=N, device=torch.device("cpu"), tokenizer="f")
    assert isinstance(mixed, Mixed)
    assert isinstance(mixed.inner, Respelled)
    assert mixed.inner.first_ids.equal(FIRST[artifact.vocab.draft_to_target])
    for wrong in (None, "g"):
        with pytest.raises(MismatchError, match="another tokenizer") as caught:
            proposal_of(found.artifact, n_target=N, device=torch.device("cpu"), tokenizer=wrong)
        assert "outlex fit" in str(caught.value)


def test_fitting_without_the_map_is_refused() -> None:
    target, drafter, traces = pair()
    with pytest.raises(MismatchError, match="another tokenizer"):
        tune([traces], trimmed(torch.arange(35)), target_head=target, drafter_head=drafter, settings=TuneSettings())


def test_a_family_that_has_nothing_to_work_on_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be fitted to this pair") as caught:
        run_experiment("pruning", setup(sizes=(20,)))  # a pruned head has shared tokens alone
    assert "only the drafter has" in str(caught.value)
    with pytest.raises(InputError, match="rows of the drafter's head that were pruned"):
        run_experiment("pruning", setup(family="cold-row"))


def test_forecasts_are_about_the_law_that_decoding_draws_from() -> None:
    target, drafter, traces = pair()
    artifact = trimmed(torch.arange(4, 36))
    found = forecast(
        traces,
        target_head=target,
        drafter_head=drafter,
        shared=SHARED,
        candidates=[artifact],
        temperatures=[1.0],
        draft_lens=[2],
    )
    params = SamplingParams()
    p = probabilities(target.logits(traces.target_hidden), params)
    for name, own in (("untrimmed", None), ("trimmed-32", artifact)):
        head_of = retokenized_head(drafter, own, shared=SHARED)
        q = Tli().law(head_of.score(traces.drafter_hidden), params).dense()
        beta = torch.minimum(p, q).sum(-1).mean()
        [cell] = [c for c in found.cells if c.candidate == name and c.domain is None]
        assert cell.mean_beta.value == pytest.approx(float(beta), abs=1e-5)
        outside = 1 - p[:, head_of.token_map.draft_to_target[head_of.token_map.draft_to_target >= 0]].sum(-1).mean()
        assert cell.oov_mass.value == pytest.approx(float(outside), abs=1e-5)
    with pytest.raises(MismatchError, match="another tokenizer"):
        forecast(traces, target_head=target, drafter_head=drafter, candidates=[], temperatures=[1.0], draft_lens=[2])
    foreign = replace(artifact, vocab=replace(artifact.vocab, tokenizer_fingerprint="f"))
    with pytest.raises(MismatchError, match="made for another tokenizer"):
        forecast(
            traces,
            target_head=target,
            drafter_head=drafter,
            shared=SHARED,
            candidates=[foreign],
            temperatures=[1.0],
            draft_lens=[2],
        )


def test_experiments_speak_of_the_targets_tokens() -> None:
    rows = run_experiment("pruning", setup(sizes=(30, 15), family="sparse-kernel")).rows
    whole = {row["untrimmed"] for row in rows if row["domain"] == "all"}
    assert len(whole) == 1
    [tli] = [row for row in rows if (row["n_draft"], row["sampler"], row["domain"]) == (30, "tli", "all")]
    assert tli["alpha"][0] == pytest.approx(whole.pop(), abs=1e-6)  # nothing pruned: the whole head
    target, drafter, _ = pair()
    held_out = setup().parts[2]
    ids = setup().order[:15]
    assert bool((SHARED.to_draft(ids) >= 0).all())
    kept = drafter.rows(SHARED.to_draft(ids)).logits(held_out.drafter_hidden).softmax(-1)
    p = target.logits(held_out.target_hidden).softmax(-1)[:, ids]
    [pruned] = [row for row in rows if (row["n_draft"], row["sampler"], row["domain"]) == (15, "tli", "all")]
    assert pruned["alpha"][0] == pytest.approx(float(torch.minimum(p, kept).sum(-1).mean()), abs=1e-6)
    decomposed = run_experiment("decomposition", setup()).rows
    everywhere = [row for row in decomposed if row["sampler"] == "respelled" and row["positions"] == "all"]
    assert np.sign(everywhere[0]["gain"][0]) == 1
    with pytest.raises(InputError, match="sizes cannot be tried") as caught:
        setup(sizes=(31,))
    assert "share 30 tokens" in str(caught.value)
