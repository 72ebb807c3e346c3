"""β, a and oov mass in blocks and families against the slow obvious reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_traces import head, random_traces

from outlex.calibration.traces import TraceSet
from outlex.errors import NumericalError
from outlex.forecast.candidates import Candidate, families
from outlex.forecast.overlaps import OverlapTable, overlap_table
from outlex.heads.linear import LinearHead
from outlex.proposals import DraftScores, Proposal, ProposalLaw, Tli, Vanilla
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams, probabilities


def candidates(ids: list[list[int] | None], n_drafter: int) -> list[Candidate]:
    return [
        Candidate(name=str(i), ids=None if own is None else torch.tensor(own), n_draft=len(own or range(n_drafter)))
        for i, own in enumerate(ids)
    ]


def table(
    traces: TraceSet, target: LinearHead, drafter: LinearHead, what: list[Candidate], **changes: Any
) -> OverlapTable:
    options: dict[str, Any] = {
        "temperatures": [0.0, 0.7, 1.0],
        "proposal": Tli(),
        "tokens_per_pass": 3,
        "on_progress": lambda n, total: None,
    }
    return overlap_table(traces, target_head=target, drafter_head=drafter, candidates=what, **{**options, **changes})


def reference(
    traces: TraceSet, target: LinearHead, drafter: LinearHead, ids: list[int] | None, temperature: float
) -> Tensor:
    """β, a, oov mass one position after the other: float64 [3, n]."""
    params, columns = SamplingParams(temperature=temperature), []
    known = range(min(target.n_rows, drafter.n_rows)) if ids is None else ids
    for i in range(len(traces)):
        p = probabilities(target.logits(traces.target_hidden[i : i + 1]), params)[0].double()
        logits = drafter.logits(traces.drafter_hidden[i : i + 1])[0]
        masked = torch.full_like(logits, -torch.inf)
        masked[list(known)] = logits[list(known)]
        law = probabilities(masked.unsqueeze(0), params)[0].double()
        q = torch.zeros_like(p)
        q[list(known)] = law[list(known)]
        x = int(traces.token_ids[i])
        accept = min(1.0, float(q[x] / p[x])) if p[x] > 0 else 0.0
        columns.append([float(torch.minimum(p, q).sum()), accept, max(0.0, 1 - float(p[list(known)].sum()))])
    return torch.tensor(columns, dtype=torch.float64).T


def check(got: OverlapTable, index: int, temperature: float, wanted: Tensor, *, atol: float = 2e-6) -> None:
    own = got.cells[index, temperature]
    for name, values in zip(("beta", "accept", "oov_mass"), wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(getattr(own, name)), values, rtol=0, atol=atol)


@settings(max_examples=20, deadline=None)
@given(
    data=st.data(),
    widths=st.sampled_from([(30, 30), (30, 34), (34, 30)]),
    n_rows=st.sampled_from([1, 3, 64]),
    seed=st.integers(0, 1000),
)
def test_any_vocabularies_give_the_reference(
    data: st.DataObject, widths: tuple[int, int], n_rows: int, seed: int
) -> None:
    # nested ones (sizes of a ranking), ones that are not, equal ones, and heads padded to different widths
    target, drafter = head(widths[0], 6, seed=seed), head(widths[1], 5, seed=seed + 1)
    shared = st.permutations(range(30))
    order = data.draw(shared)
    ids: list[list[int] | None] = [None, order[:4], order[:11], data.draw(shared)[:11], order[:11][::-1], order[:29]]
    traces = random_traces(target, drafter, [4, 1, 6], seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outlex.forecast.overlaps._ROWS_AT_ONCE", n_rows)
        got = table(traces, target, drafter, candidates(ids, widths[1]))
    for temperature in (0.0, 0.7, 1.0):
        for index, own in enumerate(ids):
            check(got, index, temperature, reference(traces, target, drafter, own, temperature))


def test_a_real_width_in_bfloat16() -> None:
    target, drafter = head(151_936, 16, seed=1, dtype=torch.bfloat16), head(151_936, 8, seed=2, dtype=torch.bfloat16)
    traces = random_traces(target, drafter, [5, 4])
    order = torch.randperm(151_665, generator=torch.Generator().manual_seed(3)).tolist()
    ids: list[list[int] | None] = [None, order[:500], order[:16_384]]
    got = table(traces, target, drafter, candidates(ids, 151_936), temperatures=[1.0])
    for index, own in enumerate(ids):
        # a block and a single row may round a bfloat16 logit differently
        check(got, index, 1.0, reference(traces, target, drafter, own, 1.0), atol=2e-3)


class EvenSpread:
    """0.9·q' + 0.1·uniform over the whole vocabulary: a law that needs its dense row."""

    name = "even-spread"

    def law(self, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        return _EvenLaw(Tli().law(scores, params).dense())


class _EvenLaw:
    def __init__(self, hot: Tensor) -> None:
        self._probs = 0.9 * hot + 0.1 / hot.shape[-1]

    def sample(self, randomness: Randomness) -> Tensor:
        return randomness.choose(self._probs)

    def prob_of(self, ids: Tensor) -> Tensor:
        return self._probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)

    def dense(self) -> Tensor:
        return self._probs


def test_a_proposal_with_mass_everywhere_goes_through_its_dense_row() -> None:
    target, drafter = head(30, 6, seed=1), head(30, 5, seed=2)
    traces = random_traces(target, drafter, [7])
    proposal: Proposal = EvenSpread()
    got = table(traces, target, drafter, candidates([None, [3, 7, 9]], 30), temperatures=[1.0], proposal=proposal)
    p = target.logits(traces.target_hidden).softmax(-1).double()
    q = torch.zeros_like(p)
    q[:, [3, 7, 9]] = drafter.logits(traces.drafter_hidden)[:, [3, 7, 9]].softmax(-1).double()
    beta = torch.minimum(p, 0.9 * q + 0.1 / 30).sum(-1)
    torch.testing.assert_close(torch.from_numpy(got.cells[1, 1.0].beta), beta, rtol=0, atol=2e-6)
    vanilla = table(traces, target, drafter, candidates([None], 30), temperatures=[1.0], proposal=Vanilla())
    check(vanilla, 0, 1.0, reference(traces, target, drafter, None, 1.0))


def test_sizes_of_one_ranking_are_one_family_whatever_their_order() -> None:
    made = families(
        candidates([None, [9, 1, 2, 3, 4], [3, 1], [1, 3, 2], [8, 7, 6]], 10), n_target=10, device=torch.device("cpu")
    )
    assert [[index for index, _ in family.members] for family in made] == [[0], [2, 3, 1], [4]]
    for family in made[1:]:
        assert family.order is not None
        for _, token_map in family.members:
            assert torch.equal(token_map.draft_to_target, family.order[: token_map.n_draft])


def test_the_mass_of_each_half_is_that_of_its_prompts() -> None:
    target, drafter = head(30, 6, seed=1), head(30, 5, seed=2)
    traces = random_traces(target, drafter, [3, 4, 2])
    got = table(traces, target, drafter, candidates([None], 30), temperatures=[1.0])
    p = target.logits(traces.target_hidden).softmax(-1).double()
    assert got.n_of_half == (5, 4)
    torch.testing.assert_close(got.mass_of_half[1.0][1], p[3:7].sum(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.mass_of_half[1.0].sum(0), p.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("role", ["target", "drafter"])
def test_logits_that_are_not_numbers_are_refused(role: str) -> None:
    heads = {"target": head(30, 6, seed=1), "drafter": head(30, 5, seed=2)}
    traces = random_traces(heads["target"], heads["drafter"], [3])
    heads[role] = replace(heads[role], weight=heads[role].weight.index_fill(0, torch.tensor([4]), torch.inf))
    with pytest.raises(NumericalError, match=role) as caught:
        table(traces, heads["target"], heads["drafter"], candidates([None, [4, 5]], 30))
    assert "float32" in str(caught.value)
