"""Chains along a text against the decoding loop itself: exactly, by enumeration, and on real models."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outlex.decode.block import BlockDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.errors import InputError
from outlex.forecast.chains import ChainSums, walk
from outlex.proposals import Tli
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableHead, TableTarget, enumerate_outcomes
from outlex.vocab.token_map import TokenMap

Logits = Callable[[tuple[int, ...]], Tensor]


def table(seed: int, width: int) -> Logits:
    @functools.cache
    def logits_of(context: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, width, context)) % 2**63)
        return torch.randn(width, dtype=torch.float64, generator=generator) * 2

    return logits_of


def decoded_in_expectation(
    p_of: Logits, q_of: Logits, rows: list[int], n_target: int, *, draft_len: int, max_new_tokens: int, stop: int | None
) -> list[float]:
    """Exact E[passes, drafted, tested, Σβ over tested] of the decoding loop."""

    def program(randomness: Randomness) -> tuple[float, ...]:
        head = TableHead(TokenMap(torch.tensor(rows), n_draft=len(rows), n_target=n_target))
        blocks = BlockDecoder(
            target=TableTarget(p_of, n_target=n_target),
            drafter=TableDrafter(q_of, head),
            proposal=Tli(),
            draft_len=draft_len,
            params=SamplingParams(),
            randomness=randomness,
            prompt_ids=[0],
            clock=Stopwatch(torch.device("cpu"), synchronize=False),
            measure=True,
        )
        sums, n_left = np.zeros(4), max_new_tokens
        while n_left:
            block = blocks.next_block(n_left)
            n_drafted = len(block.draft_ids)
            if stop in block.token_ids:
                block, n_left = block.cut(block.token_ids.index(stop) + 1), 0
            else:
                n_left -= len(block.token_ids)
            sums += [1, n_drafted, block.n_tested, sum(block.overlaps)]
        return tuple(sums)

    total = np.zeros(4)
    for outcome, probability in enumerate_outcomes(program):
        total += probability * np.array(outcome)
    return list(total)


def walked_in_expectation(
    p_of: Logits, q_of: Logits, rows: list[int], n_target: int, *, draft_len: int, max_new_tokens: int, stop: int | None
) -> list[float]:
    """The same from `walk` over all texts, weighted with their probability."""
    texts: list[tuple[float, list[float], list[float]]] = []

    def extend(context: tuple[int, ...], weight: float, accept: list[float], beta: list[float]) -> None:
        if len(beta) == max_new_tokens or (beta and context[-1] == stop):
            texts.append((weight, accept, beta))
            return
        p = p_of(context).softmax(-1)
        q = torch.zeros_like(p)
        q[rows] = q_of(context).softmax(-1)
        overlap = float(torch.minimum(p, q).sum())
        for token_id in range(n_target):
            a = min(1.0, float(q[token_id] / p[token_id]))
            extend((*context, token_id), weight * float(p[token_id]), [*accept, a], [*beta, overlap])

    extend((0,), 1.0, [], [])
    sums = walk(
        accept=np.concatenate([accept for _, accept, _ in texts]),
        beta=np.concatenate([beta for _, _, beta in texts]),
        lengths=np.array([len(beta) for _, _, beta in texts]),
        draft_len=draft_len,
        max_new_tokens=max_new_tokens,
    )
    weights = np.array([weight for weight, _, _ in texts])
    return [float(weights @ values) for values in (sums.passes, sums.drafted, sums.tested, sums.accepted)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([(2, 2, 1, 5), (2, 2, 2, 4), (3, 2, 1, 3), (2, 1, 3, 5), (3, 2, 2, 3), (2, 1, 2, 5)]),
    stop=st.sampled_from([None, 1]),
)
def test_the_walk_is_the_decoding_loop_in_expectation(
    seed: int, size: tuple[int, int, int, int], stop: int | None
) -> None:
    n_target, n_draft, draft_len, max_new_tokens = size
    p_of, q_of = table(seed, n_target), table(seed + 1, n_draft)
    rows = torch.randperm(n_target, generator=torch.Generator().manual_seed(seed))[:n_draft].tolist()
    wanted = decoded_in_expectation(
        p_of, q_of, rows, n_target, draft_len=draft_len, max_new_tokens=max_new_tokens, stop=stop
    )
    got = walked_in_expectation(
        p_of, q_of, rows, n_target, draft_len=draft_len, max_new_tokens=max_new_tokens, stop=stop
    )
    assert got == pytest.approx(wanted, abs=1e-9)


def test_products_of_beta_along_the_text_would_be_wrong() -> None:
    # p = (½, ½) and q̃ = (1, 0): only token 0 is ever accepted, with β = ½. Behind 0 every draft is accepted, behind 1
    # none. Two accepted drafts in a row have probability ½, while E[β_0 β_1] over texts of p is ½·(½·1 + ½·0) = ¼.
    accept, beta = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.5, 1.0, 0.5, 0.0])  # the texts "0" and "1", and a token
    sums = walk(accept=accept, beta=beta, lengths=np.array([2, 2]), draft_len=4, max_new_tokens=9)
    weights = np.array([0.5, 0.5])
    assert weights @ sums.accepted == pytest.approx(0.5 + 0.5)  # a first draft, and a second one behind it
    assert weights @ sums.tested == pytest.approx(2)
    along_beta = walk(accept=beta, beta=beta, lengths=np.array([2, 2]), draft_len=4, max_new_tokens=9)
    assert weights @ along_beta.tested == pytest.approx(2)  # γ is not reached: everything is tested
    assert sums.passes.tolist() == [1 + 0.5, 2 - 0.5]


def simulate(
    accept: list[float], *, draft_len: int, max_new_tokens: int, n: int, generator: np.random.Generator
) -> list[float]:
    sums = np.zeros(3)
    for _ in range(n):
        t = 0
        while t < len(accept):
            room = min(draft_len, max_new_tokens - 1 - t)
            n_run = 0
            while n_run < room and t + n_run < len(accept):
                sums[2] += 1
                if generator.random() >= accept[t + n_run]:
                    break
                n_run += 1
            sums[0] += 1
            sums[1] += room
            t += n_run + 1
    return list(sums / n)


@pytest.mark.parametrize("draft_len", [1, 2, 4, 7])
@pytest.mark.parametrize("max_new_tokens", [12, 40])
def test_the_walk_is_a_simulation_in_expectation(draft_len: int, max_new_tokens: int) -> None:
    generator = np.random.default_rng(draft_len)
    accept = generator.random(12) ** 0.3
    sums = walk(accept=accept, beta=accept, lengths=np.array([12]), draft_len=draft_len, max_new_tokens=max_new_tokens)
    simulated = simulate(
        accept.tolist(), draft_len=draft_len, max_new_tokens=max_new_tokens, n=4000, generator=generator
    )
    # 4,000 runs: the standard error is below 0.04 for sums of up to 12
    assert [float(sums.passes[0]), float(sums.drafted[0]), float(sums.tested[0])] == pytest.approx(simulated, abs=0.2)


@settings(max_examples=60, deadline=None)
@given(
    accept=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    draft_len=st.integers(1, 6),
    more=st.integers(0, 20),
)
def test_bounds_hold_for_any_text(accept: list[float], draft_len: int, more: int) -> None:
    values = np.array(accept)
    sums = walk(
        accept=values,
        beta=values,
        lengths=np.array([len(accept)]),
        draft_len=draft_len,
        max_new_tokens=len(accept) + more,
    )
    n, passes = len(accept), float(sums.passes[0])
    assert n / (draft_len + 1) - 1e-9 <= passes <= n + 1e-9
    assert -1e-9 <= sums.accepted[0] <= sums.tested[0] + 1e-9 <= n + 2e-9
    assert sums.tested[0] <= sums.drafted[0] + 1e-9 <= draft_len * passes + 2e-9
    if more == 0:  # every token is an accepted draft or ends a pass
        assert n == pytest.approx(passes + float(sums.accepted[0]))


def test_texts_do_not_mix() -> None:
    generator = np.random.default_rng(1)
    parts = [generator.random(n) for n in (3, 9, 1, 5)]
    together = walk(
        accept=np.concatenate(parts),
        beta=np.concatenate(parts) ** 2,
        lengths=np.array([len(part) for part in parts]),
        draft_len=3,
        max_new_tokens=9,
    )
    for i, part in enumerate(parts):
        alone = walk(accept=part, beta=part**2, lengths=np.array([len(part)]), draft_len=3, max_new_tokens=9)
        for name in ("passes", "drafted", "tested", "accepted"):
            assert getattr(together, name)[i] == pytest.approx(getattr(alone, name)[0])


@pytest.mark.parametrize("change", [{"draft_len": 0}, {"max_new_tokens": 3}, {"lengths": np.array([3])}])
def test_what_does_not_fit_is_refused(change: dict[str, object]) -> None:
    values = {"accept": np.ones(4), "beta": np.ones(4), "lengths": np.array([4]), "draft_len": 2, "max_new_tokens": 4}
    assert isinstance(walk(**values), ChainSums)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--draft-len"):
        walk(**{**values, **change})  # type: ignore[arg-type]
