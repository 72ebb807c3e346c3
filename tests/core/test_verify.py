"""The pure functions of verification on cases worked by hand."""

from __future__ import annotations

import pytest
import torch

from outlex.errors import NumericalError
from outlex.proposals import DraftScores, HotLaw, Tli, Vanilla
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import SamplingParams
from outlex.verify import acceptance_probs, overlap, residual, verify
from outlex.vocab.token_map import TokenMap

P = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64)
Q = torch.tensor([[0.2, 0.6, 0.0, 0.2]], dtype=torch.float64)


def test_acceptance_is_the_clipped_ratio() -> None:
    assert acceptance_probs(P[0, [0, 1, 3]], Q[0, [0, 1, 3]]).tolist() == [1.0, 0.5, 0.0]
    assert acceptance_probs(torch.tensor([0.5]), torch.tensor([0.0])).tolist() == [0.0]


def test_overlap_and_residual_account_for_all_mass() -> None:
    assert float(overlap(P, Q)) == pytest.approx(0.2 + 0.3)
    assert residual(P, Q)[0].tolist() == pytest.approx([0.6, 0.0, 0.4, 0.0])


def test_a_residual_without_mass_falls_back_to_the_target() -> None:
    assert torch.equal(residual(P, P), P)
    assert torch.equal(residual(P, P * (1 + 1e-16)), P)


def test_a_law_below_one_leaves_more_residual() -> None:
    # half of q̃ sits on tokens the target does not know
    assert residual(P, Q * 0.5)[0].tolist() == pytest.approx([0.4 / 0.6, 0.0, 0.2 / 0.6, 0.0])


def test_a_draft_unknown_to_the_target_is_rejected() -> None:
    token_map = TokenMap(torch.tensor([0, -1]), n_draft=2, n_target=4)
    law = HotLaw(torch.tensor([[0.2, 0.8]], dtype=torch.float64), token_map)
    for seed in range(20):
        randomness = GeneratorRandomness(seeded_generator(seed))
        verdict = verify(P.expand(2, -1), torch.tensor([-1]), [law], randomness)
        assert (verdict.n_accepted, verdict.kind) == (0, "recovered")


def test_without_drafts_the_target_goes_on_alone() -> None:
    verdict = verify(
        torch.tensor([[0.0, 1.0]]), torch.empty(0, dtype=torch.int64), [], GeneratorRandomness(seeded_generator(0))
    )
    assert (verdict.n_accepted, verdict.next_id, verdict.kind) == (0, 1, "bonus")


@pytest.mark.parametrize("broken", ["target", "drafter"])
def test_nan_is_named_with_its_side(broken: str) -> None:
    q = torch.full((1, 4), torch.nan) if broken == "drafter" else Q.float()
    p = torch.full((2, 4), torch.nan) if broken == "target" else P.float().expand(2, -1)
    law = HotLaw(q, TokenMap.identity(4, 4))
    with pytest.raises(NumericalError, match=broken):
        verify(p, torch.tensor([1]), [law], GeneratorRandomness(seeded_generator(0)))


def test_tli_renormalises_what_vanilla_wastes() -> None:
    token_map = TokenMap(torch.tensor([2, -1, 0]), n_draft=3, n_target=4)
    logits = torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64)
    scores = DraftScores(logits=logits, token_map=token_map, hidden=logits)
    vanilla = Vanilla().law(scores, SamplingParams()).dense()
    tli = Tli().law(scores, SamplingParams()).dense()
    assert float(vanilla.sum()) < 0.5
    torch.testing.assert_close(tli, vanilla / vanilla.sum())
    # top-k counts tokens that can be accepted: the unknown row must not take the only place
    assert Tli().law(scores, SamplingParams(top_k=1)).dense()[0].tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("proposal", [Vanilla(), Tli()], ids=lambda p: p.name)
def test_a_draft_step_allocates_nothing_as_wide_as_the_target(proposal: Tli | Vanilla) -> None:
    n_draft, n_target = 512, 151_936
    token_map = TokenMap(torch.randperm(n_target)[:n_draft], n_draft=n_draft, n_target=n_target)
    logits = torch.randn(1, n_draft)
    scores = DraftScores(logits=logits, token_map=token_map, hidden=logits)
    randomness = GeneratorRandomness(seeded_generator(0))
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        law = proposal.law(scores, SamplingParams())
        law.prob_of(law.sample(randomness))
    allocated = [event.cpu_memory_usage for event in profile.events()]
    assert 0 < max(allocated) < 4 * n_target / 8
    assert law.dense().shape == (1, n_target)
