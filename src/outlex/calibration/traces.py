"""Traces: for every token of a response, the final hidden states from which both models predict it.

Not the two laws themselves, which are as wide as the vocabulary: the LM heads make them again from the hidden states,
at any temperature and for any draft vocabulary.

    text       … c   x0      x1      x2          position 0, 1, 2: tokens of the response
    row           (h_c, x0) (h_x0, x1) (h_x1, x2)    row i holds the states *before* token i

Of the prompts their tokens are kept, and the target's most probable tokens *after* each of them: what a draft head that
follows the request would have seen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.calibration.trace_files import TENSORS, read_header, read_shard
from outlex.calibration.trace_records import PROMPT_TOP, TracedModel, TracedPrompt, TraceHeader, TraceSettings
from outlex.errors import ArtifactError, InputError, MismatchError, NumericalError
from outlex.models.output_head import output_head

if TYPE_CHECKING:
    from outlex.heads.linear import LinearHead
    from outlex.models.language_model import LanguageModel

__all__ = ["TraceSet", "TraceSettings", "TracedModel", "TracedPrompt"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceSet:
    """Traces in memory, or a part of them.

    Attributes:
        header: models, settings and prompts; `header.prompts` are those of this set, in the order of the rows.
        target_hidden: [n, d_t] in the target's dtype, after its last norm.
        drafter_hidden: [n, d_d] in the drafter's dtype, after its last norm.
        token_ids: int64 [n], the token that came at each position.
        prompt_index: int32 [n], place of the row's prompt in `header.prompts`.
        position: int32 [n], place of the token in its response, from 0.
        prompt_ids: int32 [n_prompt_tokens], the prompts one after the other.
        prompt_top: int32 [n_prompt_tokens, 8], the target's most probable next tokens at each of them, best first. A
            prompt's last row is about the response's first token.

    Raises:
        ArtifactError: shapes or order do not fit the header.
        NumericalError: a hidden state is NaN or infinite.
    """

    header: TraceHeader
    target_hidden: Tensor = field(repr=False)
    drafter_hidden: Tensor = field(repr=False)
    token_ids: Tensor = field(repr=False)
    prompt_index: Tensor = field(repr=False)
    position: Tensor = field(repr=False)
    prompt_ids: Tensor = field(repr=False)
    prompt_top: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        lengths = torch.tensor([prompt.n_positions for prompt in self.prompts], dtype=torch.int64)
        n, n_rows = int(lengths.sum()), self.header.target.n_rows
        n_read = sum(prompt.n_prompt for prompt in self.prompts)
        wanted = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        places = torch.arange(n) - (lengths.cumsum(0) - lengths)[wanted]
        fits = (
            self.target_hidden.shape == (n, self.header.target.hidden_size)
            and self.drafter_hidden.shape == (n, self.header.drafter.hidden_size)
            and self.token_ids.shape == self.prompt_index.shape == self.position.shape == (n,)
            and torch.equal(self.prompt_index.to(torch.int64), wanted)
            and torch.equal(self.position.to(torch.int64), places)
            and self.prompt_ids.shape == (n_read,)
            and self.prompt_top.shape == (n_read, min(PROMPT_TOP, n_rows))
            and not any(
                bool(((ids < 0) | (ids >= n_rows)).any()) for ids in (self.token_ids, self.prompt_ids, self.prompt_top)
            )
        )
        if not fits:
            raise ArtifactError(
                "The rows of the traces do not fit their header",
                got=f"{list(self.target_hidden.shape)} and {list(self.drafter_hidden.shape)}, {len(self)} tokens, "
                f"{len(self.prompt_ids)} prompt tokens",
                expected=f"{n} rows of {len(lengths)} prompts, one prompt after the other, tokens of the target, "
                f"{n_read} prompt tokens",
                next_step="trace again into a new directory with `outlex trace`",
            )
        for role, hidden in (("target", self.target_hidden), ("drafter", self.drafter_hidden)):
            broken = ~hidden.isfinite().all(-1)
            if bool(broken.any()):
                prompt = self.prompts[int(wanted[broken][0])]
                raise NumericalError(
                    f"The traces hold NaN or infinity in the {role}'s hidden states",
                    got=f"{int(broken.sum())} of {n} rows, first in prompt {prompt.id!r}",
                    expected="finite numbers",
                    next_step="trace again in float32 (--dtype float32); if it stays, the checkpoint is damaged",
                )

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> TraceSet:
        """Read traces; a run that was cut off has those it had committed.

        Raises:
            ArtifactError: something is missing, truncated or changed, or there is no trace yet.
            NumericalError: a hidden state is NaN or infinite.
        """
        directory = Path(directory)
        header = read_header(directory)
        if not header.shards:
            raise ArtifactError(
                f"{directory} holds no trace yet",
                got="a run that was stopped before its first prompts were done",
                expected="at least one traced prompt",
                next_step="run the same `outlex trace` command again: it goes on where it stopped",
            )
        shards = [read_shard(directory, entry) for entry in header.shards]
        # one shard stays mapped; several become one piece of memory, 5 kB a position for a pair of 1,536 and 896
        tensors = {
            name: shards[0][name] if len(shards) == 1 else torch.cat([s[name] for s in shards]) for name in TENSORS
        }
        return cls(header=header, **tensors)

    @property
    def prompts(self) -> tuple[TracedPrompt, ...]:
        return self.header.prompts

    @property
    def temperature(self) -> float | None:
        """At which the text was sampled; None if the responses were given."""
        return self.header.settings.temperature

    @property
    def domains(self) -> tuple[str, ...]:
        """In the order in which they first appear."""
        return tuple(dict.fromkeys(prompt.domain for prompt in self.prompts))

    def __len__(self) -> int:
        """Positions."""
        return int(self.token_ids.shape[0])

    def blocks(self, n_rows: int) -> Iterator[slice]:
        """Slices of at most `n_rows` rows that cover everything, in order."""
        return (slice(start, min(start + n_rows, len(self))) for start in range(0, len(self), n_rows))

    def prompt_rows(self, index: int) -> slice:
        """Where prompt number `index` lies in `prompt_ids` and `prompt_top`."""
        return slice(self._prompt_starts[index], self._prompt_starts[index + 1])

    @cached_property
    def _prompt_starts(self) -> tuple[int, ...]:
        return tuple(accumulate((prompt.n_prompt for prompt in self.prompts), initial=0))

    def check_pair(self, target: LanguageModel, drafter: LanguageModel) -> None:
        """Check that these two models made the traces.

        Raises:
            MismatchError: one of them did not.
        """
        self.check_heads(output_head(target), output_head(drafter), cross_tokenizer=True)

    def check_heads(self, target: LinearHead, drafter: LinearHead, *, cross_tokenizer: bool = False) -> None:
        """The same for the LM heads alone.

        Args:
            target, drafter: the heads.
            cross_tokenizer: the caller knows that a row of the drafter's head may be another token than the target's of
                the same number, and maps them (`outlex.vocab.token_bytes.shared_tokens`).

        Raises:
            MismatchError: other heads, or a drafter with another tokenizer where the caller counts on the same.
        """
        if self.header.drafter_tokenizer is not None and not cross_tokenizer:
            raise MismatchError(
                "These traces are of a drafter with another tokenizer",
                got=f"{self.header.drafter.name}, tokenizer {self.header.drafter_tokenizer[:12]}",
                expected=f"the tokenizer of {self.header.target.name}, {self.header.tokenizer_fingerprint[:12]}",
                next_step="measure such a pair with `outlex bench --cross-tokenizer`",
            )
        self.header.target.check(target, role="target")
        self.header.drafter.check(drafter, role="drafter")

    def check_vocab(self, fingerprint: str, n_tokenizer: int, *, what: str, of_drafter: bool = False) -> None:
        """Check that a draft vocabulary speaks of the tokenizer of these traces, or of the drafter's own.

        Raises:
            MismatchError: it does not.
        """
        wanted = self.header.drafter_tokenizer if of_drafter else None
        wanted = wanted or self.header.tokenizer_fingerprint
        if fingerprint != wanted:
            owner = self.header.drafter if of_drafter else self.header.target
            raise MismatchError(
                f"{what} was made for another tokenizer than the traces",
                got=f"{n_tokenizer} entries, fingerprint {fingerprint[:12]}",
                expected=f"the tokenizer of {owner.name}, fingerprint {wanted[:12]}",
                next_step="trim a drafter of the traced pair, or trace the pair that this belongs to",
            )

    def domain(self, name: str) -> TraceSet:
        """The prompts of one domain.

        Raises:
            InputError: there is no such domain.
        """
        return self.select(
            [i for i, prompt in enumerate(self.prompts) if prompt.domain == name], what=f"domain {name!r}"
        )

    def split(self, fraction: float, *, seed: int = 0) -> tuple[TraceSet, TraceSet]:
        """Two parts, by prompt: `fraction` of the prompts of each domain, and the others.

        A prompt's place depends on the seed and its id alone, not on the order of the traces.

        Raises:
            InputError: the fraction is not between 0 and 1, or one part would be empty.
        """
        if not 0 < fraction < 1:
            raise InputError("The traces cannot be split so", got=fraction, expected="a fraction between 0 and 1")
        first: set[int] = set()
        for name in self.domains:
            own = [i for i, prompt in enumerate(self.prompts) if prompt.domain == name]
            own.sort(key=lambda i: hashlib.sha256(f"{seed}\0{self.prompts[i].id}".encode()).digest())
            first.update(own[: round(fraction * len(own))])
        second = [i for i in range(len(self.prompts)) if i not in first]
        return self.select(first, what="the first part"), self.select(second, what="the second part")

    def select(self, indices: Iterable[int], *, what: str = "the selection") -> TraceSet:
        """Some of the prompts, in the order they have here.

        Raises:
            InputError: none is left.
        """
        kept = sorted(set(indices))
        if not kept:
            raise InputError(
                f"No traced prompt is in {what}",
                got=f"{len(self.prompts)} prompts of the domains {', '.join(self.domains)}",
                next_step="trace more prompts with `outlex trace`, or ask for another part",
            )
        new_index = torch.full((len(self.prompts),), -1, dtype=torch.int32)
        new_index[kept] = torch.arange(len(kept), dtype=torch.int32)
        renumbered = new_index[self.prompt_index.to(torch.int64)]
        rows = (renumbered >= 0).nonzero().squeeze(-1)
        return TraceSet(
            header=replace(self.header, prompts=_picked(self.prompts, kept)),
            target_hidden=self.target_hidden[rows],
            drafter_hidden=self.drafter_hidden[rows],
            token_ids=self.token_ids[rows],
            prompt_index=renumbered[rows],
            position=self.position[rows],
            prompt_ids=torch.cat([self.prompt_ids[self.prompt_rows(i)] for i in kept]),
            prompt_top=torch.cat([self.prompt_top[self.prompt_rows(i)] for i in kept]),
        )


def _picked(prompts: Sequence[TracedPrompt], kept: Sequence[int]) -> tuple[TracedPrompt, ...]:
    return tuple(prompts[i] for i in kept)
