"""Every proposal and affinity survives being taken apart, stored and put together again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from proposal_builders import all_proposals, calibration, pure_proposals, scores_of
from torch import Tensor

from outlex.affinity import CoOccurrence, Correlation, HeadCosine
from outlex.artifact import read_artifact, write_artifact
from outlex.errors import ArtifactError
from outlex.parts import Parts
from outlex.proposals import ColdRow, Mixed, Proposal, RdkExact, Restoring
from outlex.sampling import SamplingParams

HOT, N, D = [4, 1, 6], 7, 4
P = calibration(N)
PROPOSALS: dict[str, Restoring] = all_proposals(HOT, N, d=D) | {
    affinity.kind: RdkExact(affinity=affinity, temperature=0.5)
    for affinity in (
        Correlation(distributions=P),
        CoOccurrence(given=P, then=P),
        HeadCosine(weight=torch.eye(N, 3)),
    )
}


def same_law(one: Proposal, other: Proposal) -> bool:
    scores = scores_of(HOT, N, n=3, d=D)
    params = SamplingParams(temperature=0.8)
    return torch.equal(one.law(scores, params).dense(), other.law(scores, params).dense())


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_stored_proposal_is_the_same_one(name: str, tmp_path: Path) -> None:
    proposal = PROPOSALS[name]
    config, tensors = proposal.to_parts()
    write_artifact(tmp_path / "a", kind="test", config=config, tensors=tensors)
    stored = read_artifact(tmp_path / "a", kind="test")
    restored = type(proposal).from_parts(stored.config, stored.tensors)
    assert restored.name == proposal.name
    assert same_law(restored, proposal)
    again, tensors_again = restored.to_parts()
    assert json.dumps(again, sort_keys=True) == json.dumps(config, sort_keys=True)
    assert all(torch.equal(tensors[key], tensors_again[key]) for key in tensors)


@pytest.mark.parametrize("name", PROPOSALS)
def test_moving_to_a_device_keeps_the_law(name: str) -> None:
    proposal = PROPOSALS[name]
    moved = proposal.to("cpu")
    assert moved is not proposal
    assert moved.device.type == "cpu"
    assert same_law(moved, proposal)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PROPOSALS)
def test_on_cuda_the_law_is_the_same_up_to_rounding(name: str) -> None:
    scores = scores_of(HOT, N, n=3, d=D)
    there = type(scores)(
        logits=scores.logits.cuda(), token_map=scores.token_map.to("cuda"), hidden=scores.hidden.cuda()  # type: ignore[union-attr]
    )  # fmt: skip
    one = PROPOSALS[name].law(scores, SamplingParams()).dense()
    other = PROPOSALS[name].to("cuda").law(there, SamplingParams()).dense()
    torch.testing.assert_close(other.cpu(), one, rtol=0, atol=1e-12)


Damage = Callable[[dict[str, Any], dict[str, Tensor]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda config, tensors: config.pop("kind"),
        lambda config, tensors: config.update(kind="nobody"),
        lambda config, tensors: config.update(colour="blue"),
        lambda config, tensors: config["inner"].update(n_target=5),
        lambda config, tensors: config.update(weights=[[2.0]]),
        lambda config, tensors: config.update(weights="0.5"),
        lambda config, tensors: config.update(inner=None),
        lambda config, tensors: tensors.pop("inner.weights"),
        lambda config, tensors: tensors.update(extra=torch.zeros(1)),
        lambda config, tensors: tensors.update({"inner.weights": -tensors["inner.weights"]}),
        lambda config, tensors: tensors.update({"inner.neighbours": tensors["inner.neighbours"].float()}),
    ],
)
def test_parts_that_are_not_those_of_a_proposal_are_refused(damage: Damage) -> None:
    proposal = Mixed(inner=pure_proposals(HOT, N, d=D)["learned"], weights=((0.5,),))
    config, tensors = proposal.to_parts()
    assert same_law(Mixed.from_parts(config, tensors), proposal)
    damage(config, tensors)
    with pytest.raises(ArtifactError, match="fit it again"):
        Mixed.from_parts(config, tensors)


def test_another_kind_is_refused() -> None:
    config, tensors = pure_proposals(HOT, N, d=D)["learned"].to_parts()
    assert isinstance(Parts.from_parts(config, tensors), Restoring)
    with pytest.raises(ArtifactError, match="not those of a ColdRow"):
        ColdRow.from_parts(config, tensors)
