"""Another drafter on texts that are traced already: what the target says stays, only the drafter reads.

    traces of (target, drafter A)          traces of (target, drafter B)
    texts, target states  ───────────────▶ the same
    states of A                            states of B

A small drafter reads in minutes what the target took an hour to write, and two drafters on the same texts can be
compared position by position.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.calibration.collect import OnProgress, continued, hidden_states
from outlex.calibration.trace_files import add_shard, find_header, prepare_directory
from outlex.calibration.trace_records import TracedModel, TraceHeader
from outlex.calibration.traces import TraceSet
from outlex.drafters.retokenizing import RetokenizingDrafter
from outlex.errors import InputError, MismatchError
from outlex.models.runner import BodyRunner
from outlex.models.tokenizer import load_tokenizer
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from outlex.models.language_model import LanguageModel

__all__ = ["retrace"]


@dataclass(frozen=True, kw_only=True)
class _Target:
    """A `TextSource` without its weights."""

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    n_rows: int


@torch.inference_mode()
def retrace(
    traces: TraceSet,
    drafter: LanguageModel,
    directory: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    cross_tokenizer: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_progress: OnProgress | None = None,
) -> TraceSet:
    """Let another drafter read traced texts, or go on with what is there. The target is not needed.

    Args:
        traces: of the target and some drafter.
        drafter: the other one.
        directory: made if missing.
        batch_size: prompts that are committed together.
        cross_tokenizer: as in `collect_traces`.
        tokenizer: the target's; by default it is loaded from where the traces say.
        on_progress: called with the prompts done, all of them, and what comes next.

    Raises:
        InputError: a text is longer than the drafter's context, or `batch_size` is below 1.
        MismatchError: another tokenizer than the traces', or the drafter's is another and was not let be one.
        ModelError: the target's tokenizer cannot be found.
        ArtifactError: the directory holds something else, or traces made otherwise; or the disk refuses.
        NumericalError: hidden states hold NaN or infinity.
    """
    directory = Path(directory)
    if batch_size < 1:
        raise InputError(
            "--batch-size has to be a positive number", got=batch_size, expected="1 or more", next_step="leave it out"
        )
    target = _Target(
        tokenizer=tokenizer or load_tokenizer(traces.header.target.source), n_rows=traces.header.target.n_rows
    )
    fresh = _fresh_header(traces.header, target, drafter, cross_tokenizer=cross_tokenizer)
    digests = {prompt.id: prompt.digest for prompt in traces.prompts}
    header = continued(find_header(directory), fresh, digests, directory)
    if not cross_tokenizer:
        _check_lengths(traces, drafter)
    prepare_directory(directory, header)
    reader = RetokenizingDrafter(target, drafter) if cross_tokenizer else BodyRunner(drafter)
    done = {prompt.id for prompt in header.prompts}
    left = [i for i, prompt in enumerate(traces.prompts) if prompt.id not in done]
    report = on_progress or (lambda n_done, n_total, label: None)
    n_total = len(traces.prompts)
    for start in range(0, len(left), batch_size):
        report(n_total - len(left) + start, n_total, "reading texts")
        part = traces.select(left[start : start + batch_size])
        tensors = {
            "target_hidden": part.target_hidden,
            "drafter_hidden": torch.cat(list(_states(part, reader))),
            "token_ids": part.token_ids,
            "prompt_index": part.prompt_index + len(header.prompts),
            "position": part.position,
            "prompt_ids": part.prompt_ids,
            "prompt_top": part.prompt_top,
        }
        header = add_shard(directory, header, {k: v.contiguous() for k, v in tensors.items()}, part.prompts)
    report(n_total, n_total, "done")
    return TraceSet.load(directory)


def _states(part: TraceSet, reader: BodyRunner | RetokenizingDrafter) -> Iterator[Tensor]:
    """The drafter's states at the rows of each prompt: [n_positions, d]."""
    start = 0
    for i, prompt in enumerate(part.prompts):
        response = part.token_ids[start : start + prompt.n_positions].tolist()
        read = hidden_states(reader, part.prompt_ids[part.prompt_rows(i)].tolist(), response, prompt_id=prompt.id)
        yield read[-prompt.n_positions :].cpu()
        start += prompt.n_positions


def _fresh_header(old: TraceHeader, target: _Target, drafter: LanguageModel, *, cross_tokenizer: bool) -> TraceHeader:
    """The header with another drafter and no prompts yet. Stop tokens stay; those of the old drafter do no harm."""
    facts, own = facts_of(target.tokenizer), facts_of(drafter.tokenizer)
    if facts.fingerprint != old.tokenizer_fingerprint:
        raise MismatchError(
            "This is not the tokenizer that the texts were traced with",
            got=f"{facts.n_entries} entries, fingerprint {facts.fingerprint[:12]}",
            expected=f"{old.n_tokenizer} entries, fingerprint {old.tokenizer_fingerprint[:12]}",
            next_step=f"put the traced {old.target.name} back, or trace the pair anew with `outlex trace`",
        )
    if not cross_tokenizer:
        check_same_tokenizer(facts, own, remedy=", or allow another one with --cross-tokenizer")
    differs = cross_tokenizer and own.fingerprint != facts.fingerprint
    return replace(
        old,
        drafter=TracedModel.of(drafter),
        drafter_tokenizer=own.fingerprint if differs else None,
        stop_ids=old.stop_ids if differs else tuple(sorted({*old.stop_ids, *drafter.stop_ids})),
        prompts=(),
        shards=(),
    )


def _check_lengths(traces: TraceSet, drafter: LanguageModel) -> None:
    for prompt in traces.prompts:
        if prompt.n_prompt + prompt.n_positions > drafter.max_length:
            raise InputError(
                f"Prompt {prompt.id!r} and its response are too long for the drafter",
                got=f"{prompt.n_prompt} and {prompt.n_positions} tokens",
                expected=f"at most {drafter.max_length} together",
                next_step="take a drafter with a longer context, or traces without this prompt",
            )
