"""Which rows of the target's logits a draft head is shown, and that verification uses the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outlex.decode.block import BlockDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.proposals import Tli
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableHead, TableTarget, assert_lossless
from outlex.vocab.token_map import TokenMap

N = 4


def logits_of(context: tuple[int, ...]) -> Tensor:
    return torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(hash(context) % 2**63))


class _Curious(TableHead):
    """Wants the prompt's logits and keeps what it was shown."""

    def __init__(self, prompt_logits: int) -> None:
        super().__init__(TokenMap.identity(N, N))
        self.prompt_logits = prompt_logits
        self.seen: list[tuple[list[int], Tensor]] = []

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        self.seen.append((verified_ids, target_logits))


@pytest.mark.parametrize("prompt", [[2], [0, 1], [0, 1, 3, 3, 2, 1]])
@pytest.mark.parametrize("prompt_logits", [0, 1, 3, 100])
def test_rows_follow_the_end_of_the_prompt_and_the_verified_tokens(prompt: list[int], prompt_logits: int) -> None:
    head = _Curious(prompt_logits)
    target = TableTarget(logits_of, n_target=N)
    blocks = BlockDecoder(
        target=target,
        drafter=TableDrafter(lambda context: logits_of((9, *context)), head),
        proposal=Tli(),
        draft_len=3,
        params=SamplingParams(),
        randomness=GeneratorRandomness(seeded_generator(4)),
        prompt_ids=prompt,
        clock=Stopwatch(target.device, synchronize=False),
        measure=False,
    )
    context = list(prompt)
    for n_block in range(12):
        token_ids = blocks.next_block(4).token_ids
        verified, rows = head.seen[-1]
        assert tuple(verified) == token_ids
        before = min(prompt_logits, len(prompt) - 1) if n_block == 0 else 0
        text = [*context, *verified]
        first = len(context) - before
        assert rows.shape == (before + len(verified), N)
        for row, end in zip(rows, range(first, len(text)), strict=True):
            assert torch.equal(row, logits_of(tuple(text[:end])))
        context = text
    assert {len(verified) for verified, _ in head.seen} > {1}  # some drafts stood, some did not


def test_rows_about_the_prompt_leave_the_law_alone() -> None:
    for params in (SamplingParams(), SamplingParams(repetition_penalty=1.5)):
        assert_lossless(
            target=TableTarget(logits_of, n_target=N),
            drafter=TableDrafter(lambda context: logits_of((9, *context)), _Curious(2)),
            proposal=Tli(),
            params=params,
            prompt_ids=[0, 1, 3, 2],
            draft_len=2,
        )
