"""What `outlex generate` was asked for, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from outlex.cli.options import Machine
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.decode.decoder import Prompt
    from outlex.models import LanguageModel
    from outlex.proposals import Proposal
    from outlex.sampling import SamplingParams

__all__ = ["ProposalName", "Request", "make_proposal"]


class ProposalName(str, Enum):
    """q ↦ q̃."""

    tli = "tli"
    vanilla = "vanilla"


def make_proposal(name: ProposalName) -> Proposal:
    """The proposal of that name."""
    from outlex.proposals import Tli, Vanilla

    return Tli() if name is ProposalName.tli else Vanilla()


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        target, drafter: what `load_model` loads them by; without drafter it decodes autoregressively.
        cross_tokenizer: the drafter may have another tokenizer.
        trimmed: directory of a trimmed drafter.
        text: the prompt.
        system: system message.
        raw: take the text as it is, without chat template.
        params: temperature and filters.
        max_new_tokens, stop, seed: as `SpeculativeDecoder.stream` takes them.
        draft_len: γ.
        proposal: q ↦ q̃; None takes the one that the trimmed drafter brings along, else TLI.
        machine: where the models run.
        trace: file for what each token was decided by; None records nothing.

    Raises:
        InputError: an empty prompt, options that contradict each other, or no place for the trace.
    """

    target: str
    drafter: str | None
    cross_tokenizer: bool = False
    trimmed: Path | None
    text: str
    system: str | None
    raw: bool
    params: SamplingParams
    max_new_tokens: int
    stop: tuple[str, ...]
    seed: int
    draft_len: int
    proposal: ProposalName | None
    machine: Machine
    trace: Path | None = None

    def __post_init__(self) -> None:
        if not self.text if self.raw else not self.text.strip():
            raise InputError(
                "The prompt is empty",
                got=repr(self.text),
                expected="some text",
                next_step="give it with -p TEXT, --prompt-file FILE, or -p - for stdin",
            )
        if self.raw and self.system is not None:
            raise InputError(
                "--raw and --system exclude each other",
                got=f"--system {self.system!r}",
                next_step="leave --raw out, or write the system text into the prompt",
            )
        if not all(self.stop):
            raise InputError(
                "A stop string is empty",
                got="--stop ''",
                expected="some text",
                next_step="leave it out; the model's own stop tokens always count",
            )
        if self.trace is not None and (self.trace.is_dir() or not self.trace.parent.is_dir()):
            raise InputError(
                "The trace cannot be written there",
                got=self.trace,
                expected="a file in a folder that exists",
                next_step="name another file with --trace",
            )

    def prompt_for(self, model: LanguageModel) -> Prompt:
        """The prompt as this model wants it.

        Raises:
            InputError: a system message for a model without chat template.
        """
        if self.raw or not model.tokenizer.chat_template:
            if self.system is not None:
                raise InputError(
                    "--system needs a chat template",
                    got=f"{model.name}, a base model",
                    expected="an instruct or chat model",
                    next_step="write the system text into the prompt",
                )
            return self.text
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.text}]
