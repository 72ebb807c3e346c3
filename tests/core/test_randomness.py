"""Drawing from a table: exact inversion, no zero-weight draws, and the statistics of the generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from outlex.errors import InputError
from outlex.randomness import GeneratorRandomness, inverse_cdf, seeded_generator


def slow_inverse(probs: list[float], uniform: float) -> int:
    """The docstring's loop."""
    level, running = uniform * float(np.sum(np.asarray(probs))), 0.0
    for index, p in enumerate(probs):
        running += p
        if running > level:
            return index
    return max(index for index, p in enumerate(probs) if p > 0)


@given(
    weights=st.lists(st.integers(0, 8), min_size=1, max_size=1300).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_inverse_cdf_is_the_loop_in_its_docstring(weights: list[int], uniform: float) -> None:
    # small integers: all running sums are exact, so fast and slow must agree to the last entry
    probs = torch.tensor([weights], dtype=torch.float32)
    got = int(inverse_cdf(probs, torch.tensor([uniform], dtype=torch.float64)))
    assert got == slow_inverse([float(w) for w in weights], uniform)


@given(width=st.integers(1, 2000), seed=st.integers(0, 2**32), uniform=st.sampled_from([0.0, 0.5, 1 - 2**-53]))
def test_entries_of_weight_zero_are_never_drawn(width: int, seed: int, uniform: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(3, width, generator=generator) * (torch.rand(3, width, generator=generator) < 0.2)
    probs[:, int(torch.randint(width, (), generator=generator))] = 0.3
    drawn = inverse_cdf(probs, torch.full((3,), uniform, dtype=torch.float64))
    assert (probs.gather(1, drawn[:, None]) > 0).all()


def test_rows_are_independent_of_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    probs, uniforms = torch.rand(7, 1000, generator=generator), torch.rand(7, dtype=torch.float64, generator=generator)
    together = inverse_cdf(probs, uniforms)
    apart = [int(inverse_cdf(probs[i : i + 1], uniforms[i : i + 1])) for i in range(7)]
    assert together.tolist() == apart


def test_a_vocabulary_wide_row_is_drawn_by_its_law() -> None:
    # 151,936 entries as in Qwen, 16 cells of about equal mass: a block counted twice or left out fails this
    n_vocab, n_cells, n_draws = 151_936, 16, 2**12
    probs = torch.rand(n_vocab, generator=torch.Generator().manual_seed(1)).pow(8)
    cells = (probs.double().cumsum(0) / probs.double().sum() * n_cells).long().clamp_max(n_cells - 1)
    mass = torch.zeros(n_cells, dtype=torch.float64).index_add_(0, cells, probs.double())
    uniforms = torch.rand(n_draws, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn = torch.cat([inverse_cdf(probs.expand(16, -1), part) for part in uniforms.view(-1, 16)])
    counts = torch.bincount(cells[drawn], minlength=n_cells).numpy()
    assert chisquare(counts, (mass / mass.sum() * n_draws).numpy()).pvalue > 1e-3


def test_count_accepted_counts_the_run_before_the_first_failure() -> None:
    randomness = GeneratorRandomness(seeded_generator(3))
    ones, zeros = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    assert int(randomness.count_accepted(ones)) == 4
    assert int(randomness.count_accepted(zeros)) == 0
    runs = torch.stack([randomness.count_accepted(torch.tensor([0.5, 1.0, 0.5])) for _ in range(4000)])
    counts = torch.bincount(runs, minlength=4).tolist()
    # half fail at once; the certain test never fails; of the rest half fail at the third
    assert counts[1] == 0
    assert chisquare([counts[0], counts[2], counts[3]], [2000, 1000, 1000]).pvalue > 1e-3


def test_the_same_seed_gives_the_same_draws_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    probs = torch.rand(1, 500)
    torch.random.set_rng_state(before)
    first = [int(GeneratorRandomness(seeded_generator(11)).choose(probs)) for _ in range(3)]
    assert len(set(first)) == 1
    many = GeneratorRandomness(seeded_generator(None))
    assert len({int(many.choose(probs)) for _ in range(20)}) > 1
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(InputError, match="seed"):
        seeded_generator(seed)
