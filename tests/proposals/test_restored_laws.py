"""What every restored law must be: one law, whichever of its three questions is asked, in any dtype, for any map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proposal_builders import all_proposals, cold_rows, laws, pure_proposals, scores_of, sparse_kernel, tli

from outlex.affinity import SparseDistributions
from outlex.errors import InputError, MismatchError
from outlex.proposals import ColdRow, DenseKernel, Mixed, RdkExact, RdkFirstOrder, SparseKernel
from outlex.proposals.cold_groups import ColdGroups
from outlex.proposals.fixed_laws import FixedLaws
from outlex.randomness import GeneratorRandomness, Randomness, seeded_generator
from outlex.sampling import SamplingParams
from outlex.testing import enumerate_outcomes
from outlex.verify import acceptance_probs, overlap
from outlex.vocab.shortlist import Shortlist
from outlex.vocab.token_map import TokenMap

HOT, N, D = [4, 1, 6], 7, 4
PROPOSALS = all_proposals(HOT, N, d=D)
names = pytest.mark.parametrize("name", PROPOSALS)


@names
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_what_is_drawn_is_what_is_looked_up_and_what_is_subtracted(name: str, temperature: float) -> None:
    scores, params = scores_of(HOT, N, n=1, d=D), SamplingParams(temperature=temperature)
    law = PROPOSALS[name].law(scores, params)

    def draw(randomness: Randomness) -> int:
        return int(law.sample(randomness))

    drawn = torch.zeros(N, dtype=torch.float64)
    for token_id, probability in enumerate_outcomes(draw):
        drawn[token_id] += probability
    dense = law.dense()[0]
    looked_up = torch.tensor([float(law.prob_of(torch.tensor([i]))) for i in range(N)], dtype=torch.float64)
    torch.testing.assert_close(drawn, dense, rtol=0, atol=1e-14)
    torch.testing.assert_close(looked_up, dense, rtol=0, atol=1e-14)


@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_sum_to_one_and_are_not_negative(name: str, dtype: torch.dtype) -> None:
    scores = scores_of(HOT, N, n=64, d=D, dtype=dtype)
    for params in (SamplingParams(), SamplingParams(temperature=0.3, top_k=2), SamplingParams(temperature=0)):
        dense = PROPOSALS[name].law(scores, params).dense()
        assert dense.dtype == torch.float32
        assert float(dense.min()) >= 0
        torch.testing.assert_close(dense.sum(-1), torch.ones(64), rtol=0, atol=1e-6)


@names
def test_positions_of_a_batch_do_not_touch_each_other(name: str) -> None:
    scores, proposal = scores_of(HOT, N, n=5, d=D), PROPOSALS[name]
    together = proposal.law(scores, SamplingParams())
    ids = torch.tensor([0, 1, 2, 3, 4])
    for i in range(5):
        own = slice(i, i + 1)
        alone = proposal.law(replace(scores, logits=scores.logits[own], hidden=scores.hidden[own]), SamplingParams())
        torch.testing.assert_close(together.dense()[own], alone.dense(), rtol=0, atol=1e-14)
        torch.testing.assert_close(together.prob_of(ids)[own], alone.prob_of(ids[own]), rtol=0, atol=1e-14)


@names
def test_a_token_unknown_to_the_target_has_no_probability_and_its_column_no_mass(name: str) -> None:
    scores = scores_of([4, -1, 1, 6], N, n=3, d=D)
    law = PROPOSALS[name].law(scores, SamplingParams())
    assert law.prob_of(torch.tensor([-1, -1, -1])).tolist() == [0.0, 0.0, 0.0]
    known = replace(scores_of(HOT, N, n=3, d=D), logits=scores.logits[:, [0, 2, 3]], hidden=scores.hidden)
    torch.testing.assert_close(law.dense(), PROPOSALS[name].law(known, SamplingParams()).dense(), rtol=0, atol=1e-14)


@names
def test_a_drafter_that_believes_in_unknown_tokens_alone_leaves_a_law(name: str) -> None:
    scores = scores_of([4, -1, 1, 6], N, n=1, d=D)
    scores = replace(scores, logits=torch.tensor([[-torch.inf, 0.0, -torch.inf, -torch.inf]], dtype=torch.float64))
    law = PROPOSALS[name].law(scores, SamplingParams())
    token = law.sample(GeneratorRandomness(seeded_generator(0)))
    assert float(law.dense().sum()) <= 1 + 1e-12
    assert int(token) == -1 or float(law.prob_of(token)) > 0


@names
def test_a_shortlist_and_a_map_of_the_same_columns_give_the_same_law(name: str) -> None:
    scores = scores_of(HOT, N, n=2, d=D)
    listed = replace(scores, token_map=Shortlist(torch.tensor(HOT), n_target=N))
    law, other = (PROPOSALS[name].law(each, SamplingParams()) for each in (scores, listed))
    torch.testing.assert_close(law.dense(), other.dense(), rtol=0, atol=1e-14)
    for i in range(N):
        ids = torch.tensor([i, i])
        torch.testing.assert_close(law.prob_of(ids), other.prob_of(ids), rtol=0, atol=1e-14)


@names
def test_exact_acceptance_is_the_enumerated_and_the_simulated_one(name: str) -> None:
    p, scores = laws(1, N, seed=11), scores_of(HOT, N, n=1, d=D)
    exact = float(overlap(p, PROPOSALS[name].law(scores, SamplingParams()).dense()))

    def accepted(randomness: Randomness) -> int:
        law = PROPOSALS[name].law(scores, SamplingParams())
        token = law.sample(randomness)
        return int(randomness.count_accepted(acceptance_probs(p[0, token], law.prob_of(token))))

    enumerated = sum(probability for n_accepted, probability in enumerate_outcomes(accepted) if n_accepted)
    assert enumerated == pytest.approx(exact, abs=1e-12)
    n = 8_000
    many = replace(scores, logits=scores.logits.expand(n, -1), hidden=scores.hidden.expand(n, -1))
    law = PROPOSALS[name].law(many, SamplingParams())
    ids = law.sample(GeneratorRandomness(seeded_generator(1)))
    simulated = float(acceptance_probs(p[0, ids], law.prob_of(ids)).mean())
    assert simulated == pytest.approx(exact, abs=5 * 0.5 / n**0.5)  # at most half a unit of standard deviation each


@settings(max_examples=60)
@given(data=st.data())
def test_any_sparse_kernel_is_the_dense_one(data: st.DataObject) -> None:
    n_target = data.draw(st.integers(1, 9))
    r = data.draw(st.integers(1, 3))
    ids = st.integers(0, n_target - 1)
    sources = data.draw(st.lists(ids, min_size=1, unique=True))
    hot = data.draw(st.lists(ids, min_size=1, unique=True))
    neighbours = data.draw(
        st.lists(st.lists(ids, min_size=r, max_size=r), min_size=len(sources), max_size=len(sources))
    )
    weights = torch.rand(len(sources), r, dtype=torch.float64, generator=seeded_generator(len(hot))) + 0.01
    kernel = SparseKernel(
        sources=torch.tensor(sources), neighbours=torch.tensor(neighbours), weights=weights, n_target=n_target
    )
    matrix = torch.eye(n_target, dtype=torch.float64)
    for i, row in enumerate(sources):
        matrix[row] = 0
        for k in range(r):
            matrix[row, neighbours[i][k]] += weights[i, k]
    scores = scores_of(hot, n_target, n=2, d=1)
    wanted = DenseKernel(matrix=matrix).law(scores, SamplingParams()).dense()
    law = kernel.law(scores, SamplingParams())
    torch.testing.assert_close(law.dense(), wanted, rtol=0, atol=1e-14)
    for i in range(n_target):
        torch.testing.assert_close(law.prob_of(torch.tensor([i, i])), wanted[:, i], rtol=0, atol=1e-14)


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_fixed_laws_draw_what_they_say(sizes: list[int], seed: int) -> None:
    n_target = sum(sizes) + 2
    ids = torch.randperm(n_target, generator=seeded_generator(seed))[: sum(sizes)]
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    mixed = torch.randperm(len(groups), generator=seeded_generator(seed + 1))
    ids, groups = ids[mixed], groups[mixed]
    weights = torch.rand(len(ids), dtype=torch.float64, generator=seeded_generator(seed + 2))
    weights[groups == 0] = 0.0  # nothing known of a group: uniform
    fixed = FixedLaws(ids=ids, groups=groups, weights=weights, n_target=n_target)
    for group in range(len(sizes)):
        masses = torch.zeros(1, len(sizes), dtype=torch.float64)
        masses[0, group] = 1.0
        wanted = torch.zeros(n_target, dtype=torch.float64)
        own = groups == group
        wanted[ids[own]] = 1 / sizes[group] if group == 0 else weights[own] / weights[own].sum()
        drawn = torch.zeros(n_target, dtype=torch.float64)
        for token_id, p in enumerate_outcomes(lambda r, g=group: int(fixed.sample(torch.tensor([g]), r))):  # type: ignore[misc]
            drawn[token_id] += p
        torch.testing.assert_close(drawn, wanted, rtol=0, atol=1e-14)
        torch.testing.assert_close(fixed.spread(masses)[0], wanted, rtol=0, atol=1e-14)
        looked_up = fixed.prob_of(torch.arange(n_target), masses.expand(n_target, -1))
        torch.testing.assert_close(looked_up, wanted, rtol=0, atol=1e-14)
        assert float(fixed.prob_of(torch.tensor([-1]), masses)) == 0.0


def test_padding_on_either_side_keeps_one_law() -> None:
    for n_draft in (5, 9):
        scores = replace(
            scores_of(HOT, N, n=1, d=D),
            logits=torch.randn(1, n_draft, dtype=torch.float64, generator=seeded_generator(0)),
            token_map=TokenMap.identity(n_draft, N),
        )
        for name, proposal in PROPOSALS.items():
            law = proposal.law(scores, SamplingParams())
            looked_up = [float(law.prob_of(torch.tensor([i]))) for i in range(N)]
            assert law.dense()[0].tolist() == pytest.approx(looked_up, abs=1e-14), name
            assert sum(looked_up) == pytest.approx(1, abs=1e-12), name


def test_wrong_numbers_are_refused_with_a_remedy() -> None:
    half = torch.full((2, 2), 0.5)
    ids = torch.tensor([0, 1])
    laws_of_two = SparseDistributions(ids=torch.tensor([[0, 1]]), probs=torch.tensor([[0.5, 0.5]]), width=2)
    kernel = sparse_kernel([0, 1], 3)
    cold = cold_rows([0], 3, d=2)
    group = ColdRow.fit(cold, n_target=3).cold
    cases: dict[str, Callable[[], object]] = {
        "diagonal": lambda: DenseKernel(matrix=half - 1),
        "temperatures": lambda: RdkExact(affinity=pure_proposals(HOT, N, d=D)["rdk-exact"].affinity, temperature=0.0),  # type: ignore[attr-defined]
        "1e-6": lambda: RdkFirstOrder(distributions=laws_of_two, temperature=-1.0),
        "nearest": lambda: replace(kernel, weights=torch.zeros(2, 2)),
        "absolute": lambda: replace(kernel, n_target=2),
        "TLI": lambda: FixedLaws(ids=ids, groups=ids, weights=torch.tensor([1.0, -1.0]), n_target=2),
        "offsets": lambda: FixedLaws(ids=torch.tensor([1, 1]), groups=ids, weights=torch.ones(2), n_target=2),
        "gaps": lambda: FixedLaws(ids=ids, groups=torch.tensor([0, 2]), weights=torch.ones(2), n_target=2),
        "calibrate": lambda: Mixed(inner=kernel, weights=((0.5, 0.5),), edges=(0.1,)),
        "nothing to restore": lambda: replace(cold, ids=torch.tensor([3])),
    }
    for remedy, case in cases.items():
        with pytest.raises(InputError) as caught:
            case()
        assert remedy in str(caught.value.next_step), remedy
    with pytest.raises(MismatchError, match="fit the proposal again"):
        ColdGroups(laws=group.laws, centroids=half, basis=group.basis, variances=group.variances)


def test_tli_is_the_definition() -> None:
    scores = scores_of(HOT, N, n=4, d=D)
    torch.testing.assert_close(
        Mixed(inner=PROPOSALS["learned"], weights=((0.0,),)).law(scores, SamplingParams()).dense(), tli(scores)
    )
