"""Collecting traces: the target samples, both models read the text once, the states are committed batch by batch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.calibration.batch_sampling import sample_batch
from outlex.calibration.trace_files import add_shard, find_header, prepare_directory
from outlex.calibration.trace_records import PROMPT_TOP, TracedModel, TracedPrompt, TraceHeader, TraceSettings
from outlex.calibration.traces import TraceSet
from outlex.drafters.eagle import EagleDrafter, reader_of
from outlex.drafters.retokenizing import RetokenizingDrafter
from outlex.errors import ArtifactError, InputError, NumericalError
from outlex.models.output_head import output_head
from outlex.models.runner import BodyRunner
from outlex.models.shared_body import of_similar_length
from outlex.randomness import seeded_generator
from outlex.sampling import SamplingParams
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

if TYPE_CHECKING:
    from outlex.heads.linear import LinearHead
    from outlex.models.language_model import LanguageModel

__all__ = ["OnProgress", "TraceRequest", "collect_traces", "continued", "hidden_states"]

OnProgress = Callable[[int, int, str], None]
_Reader = BodyRunner | RetokenizingDrafter | EagleDrafter
_ROWS_AT_ONCE = 64  # logits of 64 rows of 151,936 in float32 are 39 MB
_WINDOW = 4  # batches: prompts are sorted by length among this many batches only


@dataclass(frozen=True, kw_only=True)
class TraceRequest:
    """One prompt to trace.

    Attributes:
        id: unique.
        domain: the group it is reported with.
        prompt_ids: token ids, at least one.
        response_ids: the response, its stop token included; None lets the target sample one.
    """

    id: str
    domain: str
    prompt_ids: tuple[int, ...] = field(repr=False)
    response_ids: tuple[int, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.prompt_ids or (self.response_ids is not None and not self.response_ids):
            raise InputError(
                f"Prompt {self.id!r} cannot be traced",
                got="no prompt" if not self.prompt_ids else "an empty response",
                expected="at least one token of each",
                next_step="leave this prompt out",
            )

    @property
    def digest(self) -> str:
        """sha256 (hex) of the token ids."""
        return hashlib.sha256(repr((self.prompt_ids, self.response_ids)).encode()).hexdigest()


def collect_traces(
    target: LanguageModel,
    drafter: LanguageModel | EagleDrafter,
    requests: Sequence[TraceRequest],
    directory: str | os.PathLike[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 8,
    cross_tokenizer: bool = False,
    on_progress: OnProgress | None = None,
) -> TraceSet:
    """Trace prompts into a directory, or go on with what is there.

    The responses come from the target alone. Then each model reads prompt and response once, without padding, and its
    final hidden states at the positions *before* each response token are kept, and of each prompt its tokens and what
    the target expects after each of them. A batch is committed as a whole, so a
    kill loses the running batch at most, and the files do not tell how often the run was interrupted. Prompts that
    are in the directory already are not traced again; others are added.

    Args:
        target, drafter: the pair. The states of an EAGLE drafter are those of the first draft of a block, which reads
            the target's own states; later drafts of a block are not traced.
        requests: all with a response, or all without.
        directory: made if missing.
        max_new_tokens: responses end there at the latest.
        temperature: of sampling; 0 is greedy. Without effect on given responses.
        seed: a prompt's random numbers follow from it and from the prompt's id, whatever else is traced.
        batch_size: prompts in one forward pass while sampling.
        cross_tokenizer: the drafter may have another tokenizer. Its state at a position is then that after the text so
            far, in its own tokens, see `RetokenizingDrafter`.
        on_progress: called with the prompts done, the prompts asked for, and what comes next.

    Raises:
        InputError: prompts that cannot be used, or options out of range.
        MismatchError: the two models have different tokenizers.
        ArtifactError: the directory holds something else, or traces made otherwise; or the disk refuses.
        NumericalError: hidden states or logits hold NaN or infinity.
    """
    directory = Path(directory)
    _check_options(max_new_tokens=max_new_tokens, batch_size=batch_size)
    params = SamplingParams(temperature=temperature)
    if isinstance(drafter, EagleDrafter):
        _check_eagle(drafter, target)
    longest = target.max_length if cross_tokenizer else min(target.max_length, drafter.max_length)
    is_given = _check_requests(requests, target, longest, max_new_tokens)
    settings = TraceSettings(
        temperature=None if is_given else float(temperature),
        seed=seed,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    found = find_header(directory)
    digests = {request.id: request.digest for request in requests}
    header = continued(found, _fresh_header(target, drafter, settings, cross_tokenizer), digests, directory)
    prepare_directory(directory, header)
    stop_ids = target.stop_ids
    done = {prompt.id for prompt in header.prompts}
    n_done = sum(request.id in done for request in requests)
    report = on_progress or _silent
    reader: _Reader
    if isinstance(drafter, EagleDrafter):
        reader = drafter
    else:
        reader = RetokenizingDrafter(target, drafter) if cross_tokenizer else BodyRunner(drafter)
    runners = BodyRunner(target), reader
    for planned in _batches(requests, batch_size):
        batch = [request for request in planned if request.id not in done]
        if not batch:
            continue
        if is_given:
            responses = [list(request.response_ids or ())[:max_new_tokens] for request in batch]
        else:
            report(n_done, len(requests), f"sampling {len(batch)} responses")
            uniforms = torch.stack([_uniforms(seed, request.id, max_new_tokens) for request in batch])
            prompts = [list(request.prompt_ids) for request in batch]
            responses = sample_batch(target, prompts, uniforms=uniforms, params=params, stop_ids=stop_ids)
        report(n_done, len(requests), f"reading {len(batch)} texts with both models")
        tensors = _read_texts(batch, responses, runners, first_index=len(header.prompts))
        prompts_done = tuple(_record(*pair, stop_ids) for pair in zip(batch, responses, strict=True))
        header = add_shard(directory, header, tensors, prompts_done)
        n_done += len(batch)
    report(n_done, len(requests), "done")
    return TraceSet.load(directory)


def _batches(requests: Sequence[TraceRequest], batch_size: int) -> Iterator[list[TraceRequest]]:
    """Neighbours of similar length: little padding, and prompts that are added later leave earlier batches alone."""
    window = _WINDOW * batch_size
    for start in range(0, len(requests), window):
        near = requests[start : start + window]
        for batch in of_similar_length([len(request.prompt_ids) for request in near], batch_size):
            yield [near[i] for i in batch]


@torch.inference_mode()
def _read_texts(
    batch: Sequence[TraceRequest],
    responses: Sequence[list[int]],
    runners: tuple[BodyRunner, _Reader],
    *,
    first_index: int,
) -> dict[str, Tensor]:
    columns: dict[str, list[Tensor]] = {"target_hidden": [], "drafter_hidden": []}
    target_head, tops = output_head(runners[0].loaded), list[Tensor]()
    for name, runner in zip(columns, runners, strict=True):
        for request, response in zip(batch, responses, strict=True):
            hidden = hidden_states(runner, request.prompt_ids, response, prompt_id=request.id)
            if runner is runners[0]:
                tops.append(_most_probable(target_head, hidden[: len(request.prompt_ids)]).cpu())
            # the state at the prompt's last token predicts the response's first
            columns[name].append(hidden[-len(response) :].cpu())
        if isinstance(runner, BodyRunner):
            runner.reset()  # its cache is as long as the last text
        else:
            runner.begin()
    lengths = torch.tensor([len(response) for response in responses])
    index = torch.arange(first_index, first_index + len(batch), dtype=torch.int32)
    return {
        **{name: torch.cat(parts).contiguous() for name, parts in columns.items()},
        "token_ids": torch.tensor([token_id for response in responses for token_id in response]),
        "prompt_index": torch.repeat_interleave(index, lengths),
        "position": torch.cat([torch.arange(int(n), dtype=torch.int32) for n in lengths]),
        "prompt_ids": torch.tensor([i for request in batch for i in request.prompt_ids], dtype=torch.int32),
        "prompt_top": torch.cat(tops),
    }


def hidden_states(
    runner: _Reader,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    *,
    prompt_id: str,
) -> Tensor:
    """Final hidden states, the last of them before each token of the response.

    Raises:
        NumericalError: they hold NaN or infinity; `prompt_id` is for the message.
    """
    if not isinstance(runner, BodyRunner):
        hidden = runner.states(prompt_ids, response_ids)
    else:
        ids = torch.tensor([*prompt_ids, *response_ids[:-1]], device=runner.device)
        runner.reset()
        # A target padded to more rows may emit an id that the drafter has no embedding for; see IndependentDrafter.
        hidden, _ = runner.forward(torch.where(ids < runner.n_embeddings, ids, 0))
    if not bool(hidden.isfinite().all()):
        raise NumericalError(
            f"The hidden states of {runner.loaded.name if isinstance(runner, BodyRunner) else runner.name} hold NaN or"
            " infinity",
            got=f"prompt {prompt_id!r}",
            expected="finite numbers",
            next_step="try float32 (--dtype float32); if it stays, the checkpoint is damaged",
        )
    return hidden


def _most_probable(head: LinearHead, hidden: Tensor) -> Tensor:
    """Ids of the largest logits, best first: hidden [n, d] -> int32 [n, PROMPT_TOP]."""
    k = min(PROMPT_TOP, head.n_rows)
    tops = [head.logits(rows).topk(k, dim=-1).indices for rows in torch.split(hidden, _ROWS_AT_ONCE)]
    return torch.cat(tops).to(torch.int32)


def _record(request: TraceRequest, response: list[int], stop_ids: frozenset[int]) -> TracedPrompt:
    return TracedPrompt(
        id=request.id,
        domain=request.domain,
        digest=request.digest,
        n_prompt=len(request.prompt_ids),
        n_positions=len(response),
        finish_reason="stop" if response[-1] in stop_ids else "length",
    )


def _uniforms(seed: int, prompt_id: str, n: int) -> Tensor:
    own = int.from_bytes(hashlib.sha256(f"{seed}\0{prompt_id}".encode()).digest()[:8], "big") >> 1
    return torch.rand(n, dtype=torch.float64, generator=seeded_generator(own))


def _check_eagle(drafter: EagleDrafter, target: LanguageModel) -> None:
    drafter.checkpoint.config.target.check(target)
    if drafter.checkpoint.head is not None:
        raise InputError(
            "Only EAGLE drafters that share the target's head can be traced",
            got=f"{drafter.name}, with a head of its own",
            expected="a checkpoint without lm_head.weight",
            next_step="`outlex bench` measures this drafter as it is",
        )


def _fresh_header(
    target: LanguageModel, drafter: LanguageModel | EagleDrafter, settings: TraceSettings, cross_tokenizer: bool
) -> TraceHeader:
    reads = reader_of(drafter)
    facts, own = facts_of(target.tokenizer), facts_of(reads.tokenizer)
    if not cross_tokenizer:
        check_same_tokenizer(facts, own, remedy=", or allow another one with --cross-tokenizer")
    return TraceHeader(
        target=TracedModel.of(target),
        drafter=TracedModel.of(drafter),
        tokenizer_fingerprint=facts.fingerprint,
        n_tokenizer=facts.n_entries,
        # ids of another tokenizer mean nothing here
        stop_ids=tuple(sorted(target.stop_ids if cross_tokenizer else target.stop_ids | reads.stop_ids)),
        settings=settings,
        drafter_tokenizer=own.fingerprint if cross_tokenizer and own.fingerprint != facts.fingerprint else None,
    )


def continued(
    found: TraceHeader | None, fresh: TraceHeader, digests: Mapping[str, str], directory: Path
) -> TraceHeader:
    """The header to go on from, which must say the same as a fresh one.

    Args:
        found: what the directory holds; None for nothing.
        fresh: what this run would write, without prompts.
        digests: prompts to trace, id -> `TraceRequest.digest`.
        directory: for the message.

    Raises:
        ArtifactError: it says something else.
    """
    if found is None:
        return fresh
    differing = [
        f"{name} {getattr(theirs, name)!r}, not {getattr(ours, name)!r}"
        for theirs, ours in (
            (found.settings, fresh.settings),
            (found.target, fresh.target),
            (found.drafter, fresh.drafter),
        )
        for name in vars(ours)
        if getattr(theirs, name) != getattr(ours, name)
    ]
    differing += [
        f"prompt {prompt.id!r} with other tokens"
        for prompt in found.prompts
        if digests.get(prompt.id, prompt.digest) != prompt.digest
    ]
    tokenizers = [(header.tokenizer_fingerprint, header.drafter_tokenizer) for header in (found, fresh)]
    if tokenizers[0] != tokenizers[1]:
        differing.append("another tokenizer")
    if differing:
        raise ArtifactError(
            f"{directory} holds traces that were made otherwise",
            got="; ".join(differing[:3]),
            expected="the same models, options and prompts, to which prompts can be added",
            next_step="choose another output directory with -o, or repeat the options of the first run",
        )
    return found


def _check_requests(requests: Sequence[TraceRequest], target: LanguageModel, longest: int, max_new_tokens: int) -> bool:
    """Whether the responses are given."""
    n_given = sum(request.response_ids is not None for request in requests)
    ids = [request.id for request in requests]
    if not requests or n_given not in (0, len(requests)) or len(set(ids)) < len(ids):
        raise InputError(
            "These prompts cannot be traced together",
            got=f"{len(ids)} prompts, {len(set(ids))} different ids, {n_given} with a response",
            expected="at least one prompt, every id once, and a response for all or for none",
            next_step="correct the file of prompts",
        )
    for request in requests:
        tokens = (*request.prompt_ids, *(request.response_ids or ()))
        if not all(0 <= token_id < target.n_rows for token_id in tokens):
            raise InputError(
                f"Prompt {request.id!r} holds ids that are not tokens of the target",
                got=f"ids from {min(tokens)} to {max(tokens)}",
                expected=f"0 to {target.n_rows - 1}",
                next_step="encode it with the target's tokenizer",
            )
        n_new = max_new_tokens if request.response_ids is None else min(max_new_tokens, len(request.response_ids))
        if len(request.prompt_ids) + n_new > longest:
            raise InputError(
                f"Prompt {request.id!r} leaves no room for its response in both models",
                got=f"{len(request.prompt_ids)} tokens and {n_new} more",
                expected=f"at most {longest} together",
                next_step="leave the prompt out, or lower --max-new-tokens",
            )
    return n_given > 0


def _check_options(**options: int) -> None:
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{option} cannot be used", got=value, expected="an integer >= 1", next_step=f"change {option}"
            )


def _silent(n_done: int, n_total: int, label: str) -> None:
    del n_done, n_total, label
