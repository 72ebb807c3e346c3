"""The LM head and the tokenizer of a traced model, read without the rest of it.

Forecasts need two matrices; the models around them can be several times as large.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.calibration.trace_records import TracedModel, TraceHeader
from outlex.errors import ArtifactError, MismatchError, ModelError
from outlex.heads.linear import LinearHead
from outlex.models.locate import locate
from outlex.models.options import resolve_device, resolve_dtype
from outlex.models.progress import Reporter
from outlex.models.tokenizer import load_tokenizer
from outlex.vocab.retokenizer import first_tokens
from outlex.vocab.token_bytes import shared_tokens
from outlex.vocab.token_map import TokenMap
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Translation", "load_head", "load_heads", "load_tokenizer_facts", "load_translation"]


def load_heads(header: TraceHeader, *, device: torch.device | str = "auto") -> tuple[LinearHead, LinearHead]:
    """The LM heads of a traced target and drafter, see `load_head`."""
    return load_head(header.target, device=device), load_head(header.drafter, device=device)


def load_head(
    traced: TracedModel,
    *,
    device: torch.device | str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> LinearHead:
    """The LM head of a traced model, in the dtype it was traced in.

    The tensor is found by its shape and proven by the fingerprint in the traces, so it does not matter what the
    checkpoint calls it, or whether it is tied to the embeddings.

    Args:
        traced: what `trace.json` says of the model.
        device: as in `load_model`.
        cache_dir: as in `load_model`.
        progress: bars if the model has to be fetched.

    Raises:
        ModelError: the model cannot be found.
        MismatchError: it is there, and holds no such head.
        ArtifactError: its files are damaged.
    """
    torch_device = resolve_device(device)
    dtype = resolve_dtype(traced.dtype, device=torch_device)
    directory = _locate(traced, dtype, cache_dir, progress=progress)
    for weight, bias in _matrices(directory, traced):
        head = LinearHead(
            weight=weight.to(dtype),
            bias=None if bias is None else bias.to(dtype),
            scale=traced.scale,
            softcap=traced.softcap,
        )
        if head.fingerprint == traced.head_fingerprint:
            return LinearHead(
                weight=head.weight.to(torch_device),
                bias=None if head.bias is None else head.bias.to(torch_device),
                scale=head.scale,
                softcap=head.softcap,
            )
    raise MismatchError(
        f"{traced.source} does not hold the LM head that the traces were made with",
        got="no matrix with the traced contents",
        expected=f"{traced.n_rows} rows × {traced.hidden_size}, fingerprint {traced.head_fingerprint[:12]}",
        next_step="put the traced checkpoint back, or trace the pair again with `outlex trace`",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Translation:
    """From the tokens of a drafter with another tokenizer to the target's.

    Attributes:
        shared: drafter rows to tokens of the target, see `shared_tokens`.
        first_ids: int64 [n_draft], the target's token that each row's text begins with, see `first_tokens`.
    """

    shared: TokenMap
    first_ids: Tensor = field(repr=False)


def load_translation(header: TraceHeader, *, device: torch.device | str = "auto") -> Translation | None:
    """For traces of a drafter with another tokenizer; None for one tokenizer.

    Raises:
        ModelError: a tokenizer cannot be found.
        MismatchError: one of the two is not the traced one.
    """
    if header.drafter_tokenizer is None:
        return None
    target, drafter = load_tokenizer(header.target.source), load_tokenizer(header.drafter.source)
    facts, own = facts_of(target), facts_of(drafter)
    for found, wanted, model in (
        (facts, header.tokenizer_fingerprint, header.target),
        (own, header.drafter_tokenizer, header.drafter),
    ):
        if found.fingerprint != wanted:
            raise MismatchError(
                f"{model.source} has another tokenizer than when it was traced",
                got=f"fingerprint {found.fingerprint[:12]}",
                expected=f"fingerprint {wanted[:12]}",
                next_step="put the traced checkpoint back, or trace the pair again with `outlex trace`",
            )
    shared = shared_tokens(facts, own, n_draft=header.drafter.n_rows, n_target=header.target.n_rows)
    torch_device = resolve_device(device)
    return Translation(
        shared=shared.to(torch_device),
        first_ids=first_tokens(target, drafter, shared=shared).to(torch_device),
    )


def load_tokenizer_facts(
    traced: TracedModel, *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> TokenizerFacts:
    """The facts of a traced model's tokenizer.

    Raises:
        ModelError: model or tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer

    directory = _locate(traced, resolve_dtype(traced.dtype, device=torch.device("cpu")), cache_dir, progress=progress)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the Rust side raises plain Exception
        raise ModelError(
            f"transformers cannot build the tokenizer of {traced.name}",
            got=f"{directory}: {error}",
            next_step="download the checkpoint again",
        ) from error
    return facts_of(tokenizer)


def _locate(
    traced: TracedModel, dtype: torch.dtype, cache_dir: str | os.PathLike[str] | None, *, progress: bool
) -> Path:
    return locate(
        traced.head_source or traced.source, dtype=dtype, cache_dir=cache_dir, report=Reporter(enabled=progress)
    ).directory


def _matrices(directory: Path, traced: TracedModel) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Every matrix of the head's shape with the bias beside it; those that are called head come first."""
    from safetensors import SafetensorError, safe_open

    files: dict[str, Any] = {}
    names: list[tuple[str, str]] = []
    try:
        for path in sorted(directory.glob("*.safetensors")):
            files[path.name] = safe_open(path, framework="pt")
            names += [
                (path.name, key)
                for key in files[path.name].keys()  # noqa: SIM118 - not a mapping
                if files[path.name].get_slice(key).get_shape() == [traced.n_rows, traced.hidden_size]
            ]
        for file, key in sorted(names, key=lambda name: "head" not in name[1]):
            bias = key.removesuffix("weight") + "bias" if traced.has_bias else ""
            owner = next((name for name, opened in files.items() if bias in opened.keys()), None)  # noqa: SIM118
            if traced.has_bias and owner is None:
                continue
            yield files[file].get_tensor(key), None if owner is None else files[owner].get_tensor(bias)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"The checkpoint of {traced.name} cannot be read",
            got=f"{directory}: {error}",
            expected="whole safetensors files",
            next_step="download the checkpoint again",
        ) from error
