"""Fixed laws over groups of tokens, drawn from in two short draws.

A draw from a law over m tokens needs a table of their probabilities, and m may be the whole vocabulary. Here each
group's tokens lie in blocks of about √m: the first draw takes a block by its mass, the second a token of the block.

    group 0   [ a b c d ] [ e f · · ]        block masses  .7 .3   ·  is padding
    group 1   [ g h i · ]                    block masses  1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.parts import Parts
from outlex.randomness import Randomness

__all__ = ["FixedLaws"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedLaws(Parts):
    """G laws over disjoint sets of tokens. Nothing but `spread` makes anything `n_target` wide.

    Attributes:
        ids: int64 [m], tokens, each at most once.
        groups: int64 [m], the group of each, from 0; no group is empty.
        weights: floating [m], not negative, any scale within a group; a group of zeros is drawn from uniformly.
        n_target: width of the target's head.

    Raises:
        InputError: shapes or values do not fit.
    """

    kind: ClassVar[str] = "fixed-laws"

    ids: Tensor = field(repr=False)
    groups: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)
    n_target: int

    n_groups: int = field(init=False)
    sizes: Tensor = field(init=False, repr=False)  # [G] tokens a group
    _group_of: Tensor = field(init=False, repr=False)  # [n_target + 1], -1 outside: an index of -1 wraps to -1
    _prob_of: Tensor = field(init=False, repr=False)  # [n_target + 1], within the group
    _block_ids: Tensor = field(init=False, repr=False)  # [n_blocks, block]
    _block_probs: Tensor = field(init=False, repr=False)  # [n_blocks, block]
    _blocks_of: Tensor = field(init=False, repr=False)  # [G, most blocks], numbers of a group's blocks
    _masses_of: Tensor = field(init=False, repr=False)  # [G, most blocks], their masses; 0 is padding

    def __post_init__(self) -> None:
        _check(self)
        n_groups = int(self.groups.max()) + 1
        device = self.ids.device
        order = self.groups.argsort(stable=True)
        ids, groups, weights = self.ids[order], self.groups[order], self.weights[order].double()
        sizes = torch.bincount(groups, minlength=n_groups)
        totals = torch.zeros(n_groups, dtype=torch.float64, device=device).index_add_(0, groups, weights)
        probs = torch.where(
            totals[groups] > 0, weights / torch.where(totals > 0, totals, 1.0)[groups], 1 / sizes[groups].double()
        )
        block = math.isqrt(int(sizes.max()) - 1) + 1
        n_blocks_of = (sizes + block - 1) // block
        first_block = n_blocks_of.cumsum(0) - n_blocks_of
        n_blocks, most = int(n_blocks_of.sum()), int(n_blocks_of.max())
        place = torch.arange(len(ids), device=device) - (sizes.cumsum(0) - sizes)[groups]  # within the group
        flat = (first_block[groups] + place // block) * block + place % block
        block_ids = torch.full((n_blocks * block,), -1, dtype=torch.int64, device=device)
        block_ids[flat] = ids
        # float64: a law in float64 must be the same one drawn and looked up, to the last digits
        block_probs = torch.zeros(n_blocks * block, dtype=torch.float64, device=device)
        block_probs[flat] = probs
        block_probs = block_probs.view(n_blocks, block)
        steps = torch.arange(most, device=device)
        blocks_of = (first_block.unsqueeze(-1) + steps).clamp_max(n_blocks - 1)
        inside = steps < n_blocks_of.unsqueeze(-1)
        group_of = torch.full((self.n_target + 1,), -1, dtype=torch.int64, device=device)
        group_of[ids] = groups
        prob_of = torch.zeros(self.n_target + 1, dtype=torch.float64, device=device)
        prob_of[ids] = probs
        for name, value in {
            "n_groups": n_groups,
            "sizes": sizes,
            "_group_of": group_of,
            "_prob_of": prob_of,
            "_block_ids": block_ids.view(n_blocks, block),
            "_block_probs": block_probs,
            "_blocks_of": blocks_of,
            "_masses_of": torch.where(inside, block_probs.sum(-1)[blocks_of], 0.0),
        }.items():
            object.__setattr__(self, name, value)

    def sample(self, groups: Tensor, randomness: Randomness) -> Tensor:
        """Draw a token of each of the groups int64 [n] -> ids int64 [n]."""
        chosen = randomness.choose(self._masses_of[groups]).unsqueeze(-1)
        block = self._blocks_of[groups].gather(-1, chosen).squeeze(-1)
        entry = randomness.choose(self._block_probs[block]).unsqueeze(-1)
        return self._block_ids[block].gather(-1, entry).squeeze(-1)

    def prob_of(self, ids: Tensor, masses: Tensor) -> Tensor:
        """Probability of one token a position under the groups' masses: ids int64 [n], masses [n, G] -> [n]."""
        group = self._group_of[ids]
        mass = masses.gather(-1, group.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return (mass * self._prob_of[ids].to(mass.dtype)).masked_fill(group < 0, 0.0)

    def spread(self, masses: Tensor) -> Tensor:
        """The whole law: masses [n, G] -> [n, n_target]."""
        group, probs = self._group_of[:-1], self._prob_of[:-1].to(masses.dtype)
        return masses.index_select(-1, group.clamp_min(0)) * probs  # 0 outside of all groups


def _check(laws: FixedLaws) -> None:
    ids, groups, weights = laws.ids, laws.groups, laws.weights
    fits = (
        ids.ndim == 1
        and ids.shape == groups.shape == weights.shape
        and ids.dtype == groups.dtype == torch.int64
        and weights.is_floating_point()
        and ids.numel() > 0
    )
    if not fits or not bool((weights >= 0).all() & weights.isfinite().all() & (groups >= 0).all()):
        raise InputError(
            "These weights make no laws",
            got=f"ids {ids.dtype} {list(ids.shape)}, groups {groups.dtype} {list(groups.shape)}, weights "
            f"{weights.dtype} {list(weights.shape)}",
            expected="at least one token; int64, int64 and floating [m], groups and weights not negative",
            next_step="where nothing is cold there is nothing to restore: use TLI",
        )
    distinct = int(torch.unique(ids).numel()) == ids.numel()
    if not distinct or int(ids.min()) < 0 or int(ids.max()) >= laws.n_target or not bool(torch.bincount(groups).all()):
        raise InputError(
            "The groups do not divide tokens of the target",
            got=f"{ids.numel()} ids from {int(ids.min())} to {int(ids.max())} in {int(groups.max()) + 1} groups",
            expected=f"each id at most once, from 0 to {laws.n_target - 1}, no empty group",
            next_step="check that the ids are absolute, not offsets, and number the groups without gaps",
        )
