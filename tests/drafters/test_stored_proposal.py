"""A proposal inside an artifact: it comes back, is used where no other is asked for, and old artifacts have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fitted_heads import fitted
from proposal_builders import sparse_kernel
from tiny_models import tiny_pair
from tuning_builders import N, toy_pair, toy_trimmed

from outlex import SpeculativeDecoder, SubVocab, Tli, trim
from outlex.artifact import read_artifact, write_artifact
from outlex.drafters import FittedHead, StoredProposal, TrimmedDrafter, load_draft_head, proposal_of
from outlex.errors import ArtifactError, MismatchError
from outlex.forecast import forecast
from outlex.vocab.tokenizer_facts import facts_of

CPU = torch.device("cpu")


def stored(n_target: int = N) -> StoredProposal:
    return StoredProposal(
        proposal=sparse_kernel([0, 1, 2], n_target), n_target=n_target, provenance={"reason": "a test"}
    )


@pytest.mark.parametrize("artifact", [toy_trimmed(), fitted("in-context")], ids=["trimmed", "in-context"])
def test_it_comes_back(artifact: Any, tmp_path: Path) -> None:
    with_it = replace(artifact, stored=stored(260))
    with_it.save(tmp_path / "a")
    back = load_draft_head(tmp_path / "a")
    assert type(back) is type(artifact)
    assert back.stored is not None
    assert back.stored.to_json() == {"name": "sparse-kernel", "n_target": 260, "reason": "a test"}
    assert isinstance(back, (TrimmedDrafter, FittedHead))
    assert back.proposal is not None
    assert torch.equal(back.proposal.neighbours, sparse_kernel([0, 1, 2], 260).neighbours)  # type: ignore[attr-defined]
    assert back.describe()["proposal"] == "sparse-kernel"
    assert proposal_of(back, n_target=260, device=CPU).name == "sparse-kernel"
    with pytest.raises(MismatchError, match="outlex fit"):
        proposal_of(back, n_target=261, device=CPU)


def test_tli_that_was_found_best_is_stored_as_that(tmp_path: Path) -> None:
    replace(toy_trimmed(), stored=StoredProposal(proposal=None, n_target=N)).save(tmp_path / "a")
    back = load_draft_head(tmp_path / "a")
    assert back.stored is not None
    assert (back.stored.name, back.proposal) == ("tli", None)
    assert isinstance(proposal_of(back, n_target=5, device=CPU), Tli)


def test_artifacts_without_one_stay_as_they_were(tmp_path: Path) -> None:
    toy_trimmed().save(tmp_path / "a")
    config = read_artifact(tmp_path / "a", kind=None).config
    assert "schema" not in config
    assert "proposal" not in config
    assert load_draft_head(tmp_path / "a").stored is None


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"schema": 3}, "upgrade outlex"),
        ({"schema": "2"}, "upgrade outlex"),
        ({"proposal": {"law": {"kind": "nobody"}, "n_target": 96, "provenance": {}}}, "fit it again"),
        ({"proposal": {}}, "trim the drafter again"),
        ({"proposal": None}, "trim the drafter again"),
    ],
)
def test_parts_that_are_none_are_refused(change: dict[str, Any], needle: str, tmp_path: Path) -> None:
    replace(toy_trimmed(), stored=stored()).save(tmp_path / "a")
    artifact = read_artifact(tmp_path / "a", kind=None)
    write_artifact(tmp_path / "b", kind=artifact.kind, config={**artifact.config, **change}, tensors=artifact.tensors)
    with pytest.raises(ArtifactError, match=needle):
        load_draft_head(tmp_path / "b")


def test_a_forecast_takes_each_artifacts_own() -> None:
    target, drafter, traces = toy_pair()
    common: dict[str, Any] = {
        "target_head": target,
        "drafter_head": drafter,
        "temperatures": [1.0],
        "draft_lens": [2],
    }
    plain, own = toy_trimmed(), replace(toy_trimmed(), stored=stored())
    found = forecast(traces, candidates=[plain, own], **common)
    assert found.proposal == "tli, sparse-kernel"
    values = [found.cell(f"trimmed-24#{i}", temperature=1.0, draft_len=2).mean_beta.value for i in (1, 2)]
    assert values[0] != values[1]
    asked = forecast(traces, candidates=[plain], proposal=sparse_kernel([0, 1, 2], N), **common)
    assert asked.cell("trimmed-24", temperature=1.0, draft_len=2).mean_beta.value == pytest.approx(values[1], abs=1e-9)
    both = forecast(traces, candidates=[own], proposal=Tli(), **common)
    assert both.cell("trimmed-24", temperature=1.0, draft_len=2).mean_beta.value == pytest.approx(values[0], abs=1e-9)


def test_decoding_takes_it_unless_another_is_asked_for() -> None:
    target, drafter = tiny_pair()
    facts = facts_of(drafter.tokenizer)
    vocab = SubVocab(
        draft_to_target=torch.arange(40),
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
    )
    trimmed = replace(trim(drafter, vocab), stored=stored(260))
    assert SpeculativeDecoder(target, drafter, trimmed=trimmed).proposal.name == "sparse-kernel"
    assert SpeculativeDecoder(target, drafter, trimmed=trimmed, proposal=Tli()).proposal.name == "tli"
    assert SpeculativeDecoder(target, drafter).proposal.name == "tli"
    wrong = replace(trimmed, stored=stored(259))
    with pytest.raises(MismatchError, match="outlex fit"):
        SpeculativeDecoder(target, drafter, trimmed=wrong)
    # and greedy text is the target's own whatever it does
    alone = SpeculativeDecoder(target).generate([5, 6, 7], max_new_tokens=12, params=_greedy())
    fast = SpeculativeDecoder(target, drafter, trimmed=trimmed).generate([5, 6, 7], max_new_tokens=12, params=_greedy())
    assert fast.token_ids == alone.token_ids


def _greedy() -> Any:
    from outlex import SamplingParams

    return SamplingParams(temperature=0)
