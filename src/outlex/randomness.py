"""Where every random decision comes from, and the one way to draw from a table of probabilities.

The decoding code asks a `Randomness` two questions only: *which row does this table give* (`choose`) and *how many of
these tests in a row succeed* (`count_accepted`). `GeneratorRandomness` answers with a seeded generator;
`outlex.testing.enumerate_outcomes` answers with every possible outcome and its exact probability, which is how the
emitted law is proven equal to the target's through the very code that serves.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.errors import InputError

__all__ = ["GeneratorRandomness", "Randomness", "inverse_cdf", "seeded_generator"]

_BLOCK = 512  # inverse_cdf scans blocks of this width: about sqrt(150k), so both scans stay short


class Randomness(Protocol):
    """The two random decisions of speculative sampling."""

    def choose(self, probs: Tensor) -> Tensor:
        """Draw one index a row.

        Args:
            probs: non-negative weights [n, m], each row with positive mass.

        Returns:
            Indices [n], int64; index j of row i with probability `probs[i, j] / probs[i].sum()`.
        """

    def count_accepted(self, probs: Tensor) -> Tensor:
        """Test independent events one after the other until the first failure.

        Args:
            probs: success probabilities [n].

        Returns:
            The number of successes before the first failure, a 0-d int64 tensor in [0, n].
        """


class GeneratorRandomness:
    """Random decisions from a `torch.Generator`, on the generator's own device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def choose(self, probs: Tensor) -> Tensor:
        return inverse_cdf(probs, self._uniform(probs.shape[0]))

    def count_accepted(self, probs: Tensor) -> Tensor:
        # u in [0, 1): a probability of 1 always passes, a probability of 0 (or NaN) never does
        passed = self._uniform(probs.shape[0]) < probs
        return passed.to(torch.int64).cumprod(0).sum()

    def _uniform(self, n: int) -> Tensor:
        # float64: 24 random bits would distort tokens rarer than 1e-7, and vocabularies are full of them
        return torch.rand(n, dtype=torch.float64, device=self.generator.device, generator=self.generator)


def seeded_generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own; `None` seeds it from the operating system. The global generator is never touched."""
    generator = torch.Generator(device=device)
    if seed is None:
        generator.seed()
        return generator
    if not 0 <= seed < 2**63:
        raise InputError("The seed is out of range", got=seed, expected="0 <= seed < 2**63")
    return generator.manual_seed(seed)


def inverse_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw by inverting the cumulative distribution: for each row, the first index whose running sum exceeds u · total.

    As a loop: `j = 0; while probs[:j+1].sum() <= u * probs.sum(): j += 1`. Here in two levels, block sums first, so
    that a row of 150,000 entries costs one pass and two short scans; a plain `multinomial` of that width takes about
    3 ms on two cores. Sums run in float64, and an entry of weight zero is never returned.

    Args:
        probs: non-negative weights [n, m], any floating dtype, each row with positive finite mass.
        uniforms: numbers in [0, 1) [n], float64.

    Returns:
        Indices [n], int64, on the device of `probs`. A row of NaN gives some index: nothing here waits for the device
        to look, `verify` does.
    """
    n, m = probs.shape
    uniforms = uniforms.unsqueeze(-1)
    if m <= _BLOCK:
        running = probs.cumsum(-1, dtype=torch.float64)
        return _reached(running, uniforms * running[:, -1:]).squeeze(-1)
    n_blocks = -(-m // _BLOCK)
    if n_blocks * _BLOCK != m:
        probs = F.pad(probs, (0, n_blocks * _BLOCK - m))
    blocks = probs.view(n, n_blocks, _BLOCK)
    running = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    block, rest = _invert(running, uniforms * running[:, -1:])
    inside = blocks.gather(1, block.unsqueeze(-1).expand(n, 1, _BLOCK)).squeeze(1).double().cumsum(-1)
    index, _ = _invert(inside, rest)
    return (block * _BLOCK + index).squeeze(-1).clamp_max(m - 1)  # past the end only in a row of NaN


def _reached(running: Tensor, level: Tensor) -> Tensor:
    """First index [n, 1] whose running sum exceeds `level` [n, 1]."""
    index = torch.searchsorted(running, level, right=True)
    # rounding may put the level at or past the total: then take the last entry that has any mass
    last = torch.searchsorted(running, running[:, -1:].contiguous())
    return torch.minimum(index, last).clamp_max(running.shape[-1] - 1)  # NaN sorts past the end


def _invert(running: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and what is left of the level inside that entry."""
    index = _reached(running, level)
    before = torch.where(index > 0, running.gather(1, (index - 1).clamp_min(0)), running.new_zeros(()))
    return index, level - before
