"""One run of one method on one prompt: what the method reports, and what the benchmark adds."""

from __future__ import annotations

from dataclasses import dataclass

from outlex.errors import InputError

__all__ = ["MethodInfo", "Row", "Run"]


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What is known of a method before it runs.

    Attributes:
        name: unique in its benchmark.
        description: one line.
        n_draft: rows of the draft head; None without a drafter.
        draft_bytes: weights read by one draft step; None if the method does not tell.
        target_bytes: weights read by one target pass; None if the method does not tell.
        vocab_fingerprint: of the sub-vocabulary; None without one.
    """

    name: str
    description: str
    n_draft: int | None = None
    draft_bytes: int | None = None
    target_bytes: int | None = None
    vocab_fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a method reports of one run. None stands for what it cannot know.

    Attributes:
        token_ids: the new tokens, the stop token included. Every method's tokens are counted here, and only
            here.
        n_passes: forward passes of the target.
        n_drafted, n_accepted, n_tested: drafts; those after the first rejection of a block are not tested.
        sum_beta: Σ of the exact acceptance probability β over the tested drafts.
        draft_s, target_s: seconds inside the two models' forwards.
        head_s: the draft head's part of `draft_s`.
        paused_s: seconds that the run spent on measuring itself.
        draft_step_s, target_pass_s: medians over the blocks after the first, which also reads the prompt;
            None if there is only one block.
    """

    token_ids: tuple[int, ...]
    n_passes: int | None = None
    n_drafted: int | None = None
    n_accepted: int | None = None
    n_tested: int | None = None
    sum_beta: float | None = None
    draft_s: float | None = None
    head_s: float | None = None
    target_s: float | None = None
    paused_s: float = 0.0
    draft_step_s: float | None = None
    target_pass_s: float | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    """A run and its place in the benchmark.

    Attributes:
        method: `MethodInfo.name`.
        prompt_id, domain: which prompt.
        n_prompt: its tokens.
        temperature: 0 is greedy.
        repeat: number of the repetition, from 0.
        order: when it was this method's turn among the methods, from 0.
        seed: of this run.
        wall_s: seconds from call to return, `paused_s` taken off.

    Raises:
        InputError: no token, or no time.
    """

    method: str
    prompt_id: str
    domain: str
    n_prompt: int
    temperature: float
    repeat: int
    order: int
    seed: int
    wall_s: float

    def __post_init__(self) -> None:
        if not self.token_ids or not self.wall_s > 0:
            raise InputError(
                f"A run of {self.method} on prompt {self.prompt_id!r} cannot be right",
                got=f"{self.n_tokens} tokens in {self.wall_s} s",
                expected="at least one token, and a positive time",
                next_step="report it, with the command that was run",
            )
