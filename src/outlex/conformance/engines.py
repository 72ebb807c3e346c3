"""What a conformance check asks of an engine: tokens for a prompt, and nothing about how it came by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from outlex.errors import ModelError
from outlex.sampling import SamplingParams

__all__ = ["CountsDrafts", "Engine", "checked"]

TokenIds = tuple[int, ...]


class Engine(Protocol):
    """A black box that continues prompts."""

    @property
    def name(self) -> str:
        """What reports call it, drafter included."""

    @property
    def dtype(self) -> str:
        """In which it computes the target: float32, bfloat16 …; what rounding may explain depends on it."""

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[TokenIds]:
        """Several outputs for one prompt, each drawn for itself.

        Args:
            prompt_ids: the prompt.
            params: the law that is asked for.
            n_samples: how many outputs.
            max_new_tokens: tokens an output. An engine that cannot go on behind a stop token may end there; the stop
                token is the output's last one then.
            seed: of the first output, the others' follow it; an engine without seeds ignores it.

        Raises:
            ModelError: the engine failed or does not say which tokens it drew.
        """


@runtime_checkable
class CountsDrafts(Protocol):
    """An engine that knows whether it drafted at all; one that did not passes every check, and says nothing."""

    @property
    def n_accepted(self) -> int | None:
        """Draft tokens that the target accepted so far; None if the engine was told not to count."""


def checked(outputs: list[TokenIds], *, n_samples: int, max_new_tokens: int, n_target: int) -> list[TokenIds]:
    """The outputs of an engine, if they are what was asked for.

    Raises:
        ModelError: too few or too many outputs or tokens, or ids that are no tokens of the target.
    """
    wrong = [ids for ids in outputs if not 1 <= len(ids) <= max_new_tokens or not all(0 <= i < n_target for i in ids)]
    if len(outputs) == n_samples and not wrong:
        return outputs
    raise ModelError(
        "The engine did not return what it was asked for",
        got=f"{len(outputs)} outputs" + (f", one of them {list(wrong[0])[:8]}" if wrong else ""),
        expected=f"{n_samples} outputs of 1 to {max_new_tokens} token ids below {n_target}",
        next_step="check that engine and --target are the same model",
    )
