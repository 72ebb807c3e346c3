"""What a request came to: text, tokens, why it ended, and what happened block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outlex.decode.block import Block
from outlex.decode.stopwatch import TimeSplit

__all__ = ["Generation", "Step"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One target pass, as the streaming iterator yields it.

    Attributes:
        text: new text that is certain not to change any more.
        block: tokens, drafts, acceptance.
        time: where this step's wall time went.
        finish_reason: None while it goes on; "stop" (stop token or stop string), "length" (max_new_tokens) or
            "context" (the model's context is full).
    """

    text: str
    block: Block
    time: TimeSplit
    finish_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A finished request.

    Attributes:
        text: output without stop strings and special tokens.
        token_ids: output tokens, the stop token included.
        finish_reason: "stop", "length" or "context".
        n_prompt: tokens of the prompt.
        steps: one a target pass.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    n_prompt: int
    steps: tuple[Step, ...]

    @classmethod
    def from_steps(cls, steps: Sequence[Step], *, n_prompt: int) -> Generation:
        """What a finished stream came to."""
        return cls(
            text="".join(step.text for step in steps),
            token_ids=tuple(i for step in steps for i in step.block.token_ids),
            finish_reason=str(steps[-1].finish_reason),
            n_prompt=n_prompt,
            steps=tuple(steps),
        )

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def n_accepted(self) -> int:
        return sum(step.block.n_accepted for step in self.steps)

    @property
    def n_tested(self) -> int:
        """Drafts that met their test; those after a rejection did not."""
        return sum(step.block.n_tested for step in self.steps)

    @property
    def acceptance_rate(self) -> float:
        """Accepted / tested drafts; NaN without drafts."""
        return self.n_accepted / self.n_tested if self.n_tested else float("nan")

    @property
    def block_efficiency(self) -> float:
        """Tokens per target pass."""
        return self.n_tokens / len(self.steps)

    @property
    def overlaps(self) -> tuple[float, ...]:
        """Exact β at every tested position, if it was measured."""
        return tuple(beta for step in self.steps for beta in step.block.overlaps)

    @property
    def time(self) -> TimeSplit:
        return sum((step.time for step in self.steps), TimeSplit())
