"""Tokens that only the drafter has: drawn as the target begins to spell them, losslessly, and nothing n_target wide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outlex.errors import InputError, MismatchError
from outlex.parts import Parts
from outlex.proposals import DraftScores, Mixed, Respelled, Tli
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableHead, TableTarget, assert_lossless
from outlex.vocab.token_map import TokenMap

# columns 0 and 2 are tokens 1 and 0; columns 1 and 3 are the drafter's own and begin with tokens 1 and 2
COLUMNS, FIRST = [1, -1, 0, -1], [1, 1, 0, 2]


def scores_of(logits: Tensor, *, columns: list[int] = COLUMNS, n_target: int = 4) -> DraftScores:
    token_map = TokenMap(torch.tensor(columns), n_draft=len(columns), n_target=n_target)
    return DraftScores(logits=logits, token_map=token_map, hidden=logits)


def test_mass_moves_to_the_first_token_and_meets_what_is_there() -> None:
    q = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    law = Respelled(first_ids=torch.tensor(FIRST), n_target=4).law(scores_of(q.log()), SamplingParams())
    torch.testing.assert_close(law.dense(), torch.tensor([[0.2, 0.7, 0.1, 0.0]], dtype=torch.float64))
    for token, prob in enumerate([0.2, 0.7, 0.1, 0.0]):
        assert float(law.prob_of(torch.tensor([token]))) == pytest.approx(prob)
    assert float(law.prob_of(torch.tensor([-1]))) == 0
    # TLI gives 2/3 and 1/3: where the target says token 1 with 0.7, respelling is right and TLI is not
    p = torch.tensor([0.2, 0.7, 0.1, 0.0]).double()
    assert float(torch.minimum(p, Tli().law(scores_of(q.log()), SamplingParams()).dense()[0]).sum()) < 0.9


def test_the_example_of_the_documentation() -> None:
    # rows the, in, unbel, uns; tokens the, in, un and all others together
    q, p = torch.tensor([[0.4, 0.2, 0.3, 0.1]]).double(), torch.tensor([[0.2, 0.1, 0.6, 0.1]]).double()
    scores = scores_of(q.log(), columns=[0, 1, -1, -1])
    for proposal, wanted in ((Tli(), 0.3), (Respelled(first_ids=torch.tensor([0, 1, 2, 2]), n_target=4), 0.7)):
        law = proposal.law(scores, SamplingParams()).dense()
        assert float(torch.minimum(p, law).sum()) == pytest.approx(wanted)


def test_a_column_without_a_first_token_is_never_drawn() -> None:
    q = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    law = Respelled(first_ids=torch.tensor([1, -1, 0, -1]), n_target=4).law(scores_of(q.log()), SamplingParams())
    torch.testing.assert_close(law.dense(), Tli().law(scores_of(q.log()), SamplingParams()).dense())
    # where nothing else is left the draft is unknown to the target, as with TLI
    alone = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0]], dtype=torch.float64)
    lost = Respelled(first_ids=torch.tensor([1, -1, 0, -1]), n_target=4).law(scores_of(alone), SamplingParams())
    assert lost.sample(GeneratorRandomness(seeded_generator(0))).tolist() == [-1]
    assert float(lost.dense().sum()) == 0


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_k=2)])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_the_targets_law_is_kept(params: SamplingParams, share: float) -> None:
    generator = torch.Generator().manual_seed(3)
    p, q = (torch.randn(4, dtype=torch.float64, generator=generator) * 1.5 for _ in range(2))
    token_map = TokenMap(torch.tensor(COLUMNS), n_draft=4, n_target=4)
    respelled = Respelled(first_ids=torch.tensor(FIRST), n_target=4)
    assert_lossless(
        target=TableTarget(lambda context: p.roll(len(context)), n_target=4),
        drafter=TableDrafter(lambda context: q.roll(len(context)), TableHead(token_map)),
        proposal=Mixed(inner=respelled, weights=((share,),)),
        params=params,
        prompt_ids=[0],
        draft_len=2,
    )


def test_drawing_and_looking_up_make_nothing_as_wide_as_the_target() -> None:
    columns, n_target = [5, -1, 7], 1_000_000
    proposal = Respelled(first_ids=torch.tensor([5, 6, 7]), n_target=n_target)
    scores = scores_of(torch.randn(2, 3), columns=columns, n_target=n_target)
    with torch.profiler.profile(profile_memory=True) as seen:
        law = proposal.law(scores, SamplingParams())
        law.prob_of(law.sample(GeneratorRandomness(seeded_generator(0))))
    assert max(event.self_cpu_memory_usage for event in seen.key_averages()) < 100_000


def test_it_is_stored_and_read_back() -> None:
    proposal = Respelled(first_ids=torch.tensor(FIRST), n_target=4)
    config, tensors = proposal.to_parts()
    back = Parts.from_parts(config, tensors)
    assert isinstance(back, Respelled)
    assert back.first_ids.equal(proposal.first_ids)
    assert (back.name, back.n_target) == ("respelled", 4)


@pytest.mark.parametrize(
    "ids", [torch.tensor([0, 4]), torch.tensor([-1, -1]), torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor([-2])]
)
def test_ids_that_are_none_are_refused(ids: Tensor) -> None:
    with pytest.raises(InputError, match="first tokens") as caught:
        Respelled(first_ids=ids, n_target=4)
    assert "first_tokens makes them" in str(caught.value)


def test_another_head_is_refused() -> None:
    proposal = Respelled(first_ids=torch.tensor([0, 1]), n_target=4)
    with pytest.raises(MismatchError, match="another draft head") as caught:
        proposal.law(scores_of(torch.zeros(1, 4)), SamplingParams())
    assert "4 columns" in str(caught.value)
