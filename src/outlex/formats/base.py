"""What every format gives and takes: a map as absolute ids, and how the file spelled it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from outlex.errors import ArtifactError, InputError, VocabError
from outlex.formats.source import Source
from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = [
    "MAX_IDS",
    "Evidence",
    "Format",
    "MapFile",
    "Reading",
    "Spelling",
    "WriteRequest",
    "Writer",
    "as_ids",
    "check_width",
    "unusable",
]

Spelling = Literal["absolute", "offsets"]
# Far above any tokenizer: what claims more is damaged, and must not make us reserve memory.
MAX_IDS = 1 << 24
_INTEGERS = (torch.int64, torch.int32)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Why a path is taken for a format.

    Attributes:
        format: the name of the format.
        why: what was seen, in words.
    """

    format: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the reader is told because the file may not say it.

    Attributes:
        read_as: how the numbers are spelled; None lets the file decide, or refuses.
        n_target: width of the target's head, padding included; None takes it from the file.

    Raises:
        InputError: a width that no head has.
    """

    read_as: Spelling | None = None
    n_target: int | None = None

    def __post_init__(self) -> None:
        check_width(self.n_target)


@dataclass(frozen=True, kw_only=True, eq=False)
class MapFile:
    """A draft vocabulary as some file holds it.

    Attributes:
        format: name of the format.
        path: where it was read.
        ids: int64 CPU ``[n_draft]``, absolute target ids in the order of the rows; copied.
        n_target: width of the target's head as the file says it, padding included; None if it does not.
        spelling: how the file writes the ids. Offsets mean: target id of row i = i + offset i.
        settled_by: what decided between absolute ids and offsets, in words.
        layout: who writes such files, in words.
        n_tokenizer: entries of the tokenizer, where the file says so.
        tokenizer_fingerprint: `TokenizerFacts.fingerprint`, where the file carries one.
        tensors: dtype and shape of the other tensors in the file, by name.
        config: the file's own settings, where it has any.
        traps: what an engine would do with this file that nobody wants, in words.

    Raises:
        VocabError: no ids, ids twice, below 0, or not below ``n_target``.
    """

    format: str
    path: Path
    ids: Tensor = field(repr=False)
    n_target: int | None
    spelling: Spelling
    settled_by: str
    layout: str
    n_tokenizer: int | None = None
    tokenizer_fingerprint: str | None = None
    tensors: Mapping[str, str] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    traps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problem = unusable(self.ids, n_target=self.n_target)
        if problem is not None:
            raise VocabError(
                f"{self.path} holds no usable map",
                got=problem,
                expected="each target id at most once, all below the width of the head",
                next_step="make the map again with the tool that wrote it; give --n-target if the width is another",
            )
        object.__setattr__(self, "ids", self.ids.detach().clone().contiguous())

    @property
    def n_draft(self) -> int:
        """Rows of the draft head."""
        return self.ids.numel()

    @property
    def is_ascending(self) -> bool:
        """Whether the rows are in the order of their ids, so that nothing is known of their ranks."""
        return bool((self.ids[1:] > self.ids[:-1]).all())

    @property
    def offsets(self) -> Tensor:
        """int64 ``[n_draft]``: id of row i less i, what EAGLE-3 calls ``d2t``."""
        return self.ids - torch.arange(self.n_draft)

    def target_mask(self, n_target: int) -> Tensor:
        """bool ``[n_target]``: which target ids have a row, what EAGLE-3 calls ``t2d``."""
        mask = torch.zeros(n_target, dtype=torch.bool)
        mask[self.ids] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class WriteRequest:
    """What a writer needs beside the map.

    Attributes:
        output: a path that does not exist, or may be replaced.
        n_target: width of the target's head, padding included; None where neither file nor user said it.
        facts: of the target's tokenizer; None where none was given.
        must_keep_ids: ids that a shorter list must keep, where the tokenizer is known.
    """

    output: Path
    n_target: int | None = None
    facts: TokenizerFacts | None = field(default=None, repr=False)
    must_keep_ids: tuple[int, ...] = field(default=(), repr=False)

    def width_for(self, map_file: MapFile, *, what: str) -> int:
        """The width to write.

        Raises:
            InputError: nobody said it.
            VocabError: the ids do not fit in it.
        """
        n_target = self.n_target or map_file.n_target
        if n_target is None:
            raise InputError(
                f"{what} needs the width of the target's head, and {map_file.path.name} does not say it",
                expected="--n-target N, or --tokenizer MODEL",
                next_step="give --n-target with the vocab_size of the target's config.json",
            )
        problem = unusable(map_file.ids, n_target=n_target)
        if problem is not None:
            raise VocabError(
                "The map does not fit the target's head",
                got=problem,
                expected=f"ids from 0 to {n_target - 1}",
                next_step="check that map and target belong together; `outlex inspect MAP --target MODEL` tells",
            )
        return n_target


class Format(Protocol):
    """One way to keep a map in a file or a directory."""

    @property
    def name(self) -> str:
        """As `outlex convert --to` and messages call it."""
        ...

    def recognise(self, source: Source) -> str | None:
        """What speaks for this format, in words; None when it is another's. Reads as little as it can."""
        ...

    def read(self, source: Source, reading: Reading) -> MapFile:
        """Read and check the map.

        Raises:
            ArtifactError: damaged, or not what `recognise` took it for.
            VocabError: no map: ids twice, out of range, or absolute ids and offsets cannot be told apart.
        """
        ...


@runtime_checkable
class Writer(Format, Protocol):
    """A format that outlex writes as well."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How the name of an output ends; empty for a directory of any name."""
        ...

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """Write the map, whole or not at all.

        Raises:
            ArtifactError: the disk refuses.
            InputError: something is missing that neither file nor request says.
            VocabError: the map does not fit the width.
        """
        ...


def check_width(n_target: int | None) -> None:
    """Refuse a width that no target's head has; None is not known.

    Raises:
        InputError: it is below 1, or beyond all tokenizers.
    """
    if n_target is not None and not 1 <= n_target <= MAX_IDS:
        raise InputError(
            "The target's head cannot have that many rows",
            got=n_target,
            expected=f"1 to {MAX_IDS}",
            next_step="give the vocab_size of the target's config.json",
        )


def as_ids(values: object, *, where: str) -> Tensor:
    """A list of whole numbers, or a 1-d tensor of them, as int64 ``[n]`` on the CPU. Their range is not judged.

    Raises:
        ArtifactError: anything else.
    """
    if isinstance(values, list):
        whole = 1 <= len(values) <= MAX_IDS and all(type(value) is int and abs(value) < 1 << 62 for value in values)
        if whole:
            return torch.tensor(values, dtype=torch.int64)
        kinds = sorted({type(value).__name__ for value in values[:MAX_IDS]})
        got = f"a list of {len(values)} entries: {', '.join(kinds)[:80] or 'none'}"
    elif type(values) is Tensor:
        plain = values.layout == torch.strided and values.device.type == "cpu"
        if plain and values.dtype in _INTEGERS and values.ndim == 1 and 1 <= values.numel() <= MAX_IDS:
            return values.to(torch.int64)
        got = f"{values.dtype} {list(values.shape)}"
    else:
        got = type(values).__name__
    raise ArtifactError(
        f"{where} does not hold token ids",
        got=got,
        expected="whole numbers in one row: a list, or a tensor of int64 or int32",
        next_step="make the map again with the tool that wrote it; a list of ids needs no tensor",
    )


def unusable(ids: Tensor, *, n_target: int | None) -> str | None:
    """What is wrong with int64 ``ids [n]`` as absolute target ids, in words; None when nothing is."""
    if ids.dtype != torch.int64 or ids.ndim != 1 or not ids.numel():
        return f"{ids.dtype} {list(ids.shape)}"
    low, high = int(ids.min()), int(ids.max())
    limit = MAX_IDS if n_target is None else n_target
    if low < 0:
        return f"{int((ids < 0).sum())} ids below 0, the lowest {low}"
    if high >= limit:
        return f"{int((ids >= limit).sum())} ids of {limit} or above, the highest {high}"
    n_repeated = ids.numel() - int(torch.unique(ids).numel())
    return f"{n_repeated} ids repeated" if n_repeated else None
