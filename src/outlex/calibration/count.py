"""`count_corpus`: token statistics of a corpus of any size."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from outlex.calibration.blocks import BLOCK_BYTES, Block
from outlex.calibration.checkpoint import Progress, RunningSums, read_checkpoint, write_checkpoint
from outlex.calibration.corpus import CorpusFile, Format, Source, list_files, parse_source
from outlex.calibration.counting import TaskCounts
from outlex.calibration.encoding import EncodingSpec, spec_of
from outlex.calibration.faults import fault_error
from outlex.calibration.processes import Task, count_here, count_in_processes
from outlex.calibration.reading import CorpusReader
from outlex.calibration.stats import TokenStats
from outlex.errors import InputError, OutlexError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CountConfig", "CountNews", "CountResult", "count_corpus"]

_SMALL_BYTES = 8 << 20  # below it, starting processes takes longer than it saves
_SHARE_OF_TIME = 0.05  # that checkpoints may take


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    """What to count and how.

    Attributes:
        sources: ``PATH``, ``DOMAIN=PATH`` or ``hub:OWNER/NAME[/CONFIG][:SPLIT]``; a path can be a folder or a pattern.
        weights: by domain, see `TokenStats.total`; 1 for those not named.
        format: of all files; None goes by their names.
        text_field: the field with the text; None tries ``messages``, ``text`` and ``prompt``.
        domain_field: the field that names a record's domain, unless its source does.
        chats: "template" counts what the model has to emit by its chat template, end-of-turn token included; "content"
            counts the assistant's contents alone.
        on_error: "stop" at a record or file that cannot be used, or "skip" and say how many.
        workers: processes; None takes every core this process may use, or this process alone for a small corpus.
        backend: "local" or "ray".
        ray_address: of the cluster; None uses RAY_ADDRESS, or starts one on this machine.
        checkpoint_every_s: seconds between checkpoints, at least; longer where writing one takes long.
        block_bytes: size of a unit of work.

    Raises:
        InputError: no source, or a value that is none of these.
    """

    sources: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    format: Format | None = None
    text_field: str | None = None
    domain_field: str = "domain"
    chats: Literal["template", "content"] = "template"
    on_error: Literal["stop", "skip"] = "stop"
    workers: int | None = None
    backend: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    checkpoint_every_s: float = 10.0
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        choices = {
            "format": (self.format, (None, "jsonl", "parquet", "text")),
            "chats": (self.chats, ("template", "content")),
            "on_error": (self.on_error, ("stop", "skip")),
            "backend": (self.backend, ("local", "ray")),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise InputError(
                    f"{name} has a value that it cannot have",
                    got=repr(value),
                    expected=" or ".join(map(repr, allowed)),
                    next_step="choose one of these",
                )
        if isinstance(self.sources, str) or not self.sources:
            raise InputError(
                "There is no corpus", got=repr(self.sources), next_step="give at least one path, in a tuple"
            )
        if (self.workers is not None and self.workers < 1) or self.block_bytes < 8 or self.checkpoint_every_s < 0:
            raise InputError(
                "A number is too small",
                got=f"workers {self.workers}, block_bytes {self.block_bytes}, every {self.checkpoint_every_s} s",
                expected="workers from 1, block_bytes from 8, checkpoint_every_s from 0",
                next_step="leave it out to get the default",
            )
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(
                    f"The weight of {name} cannot be used", got=weight, expected="0 or more", next_step="correct it"
                )


@dataclass(frozen=True, kw_only=True)
class CountNews:
    """How far a run is.

    Attributes:
        done_bytes, total_bytes: of the files on the disk.
        n_tokens: counted.
        n_bytes: of text, counted in this run.
        n_new_tokens: counted in this run.
        elapsed_s: of this run.
    """

    done_bytes: int
    total_bytes: int
    n_tokens: int
    n_bytes: int
    n_new_tokens: int
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class CountResult:
    """What came of a run.

    Attributes:
        stats: the statistics, the same however often the run was interrupted and wherever it ran.
        faults: the first records that were left out, in words.
        n_faults: how many were left out, by reason.
        n_cut: records that were encoded in pieces because of their length.
        n_bytes: of text encoded, as UTF-8.
        elapsed_s: of this run, without earlier ones that it went on from.
        was_resumed: whether it went on from a checkpoint.
    """

    stats: TokenStats
    faults: tuple[str, ...]
    n_faults: dict[str, int]
    n_cut: int
    n_bytes: int
    elapsed_s: float
    was_resumed: bool


def count_corpus(
    config: CountConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    on_news: Callable[[CountNews], None] | None = None,
) -> CountResult:
    """Count the tokens of a corpus in several processes, with memory that does not grow with the corpus.

    In a script of your own, call it below ``if __name__ == "__main__":``, because new processes import the script.

    Args:
        config: what to count.
        tokenizer: of the target; begin and end tokens are not added.
        checkpoint: a file that keeps what is done. If it is there, the run goes on from it. It stays, also when the run
            ends well: whoever saves the result removes it then.
        on_news: called now and then.

    Raises:
        InputError: no corpus, nothing in it, a record that cannot be used, or a checkpoint of something else.
        ArtifactError: a damaged file, or a disk that refuses.
        OutlexError: a process was killed; the run can go on from the checkpoint.
    """
    started = time.monotonic()
    spec = spec_of(
        tokenizer,
        chats=config.chats,
        text_field=config.text_field,
        domain_field=config.domain_field,
        on_error=config.on_error,
    )
    sources = [parse_source(given) for given in config.sources]
    _check_weights(config, sources)
    files = list_files(sources, format=config.format)
    run = _Run(config=config, spec=spec, sources=sources, files=files, on_news=on_news, started=started)
    run.go(None if checkpoint is None else Path(checkpoint))
    sums = run.sums
    stats = _stats(run)
    n_faults: Counter[str] = Counter()
    for (_, reason), n in sums.n_faults.items():
        n_faults[reason] += n
    return CountResult(
        stats=stats,
        faults=tuple(sums.faults),
        n_faults=dict(sorted(n_faults.items())),
        n_cut=sums.n_cut,
        n_bytes=sums.n_bytes,
        elapsed_s=time.monotonic() - started,
        was_resumed=run.was_resumed,
    )


@dataclass(kw_only=True)
class _Run:
    """One run, from its files to the sums."""

    config: CountConfig
    spec: EncodingSpec
    sources: Sequence[Source]
    files: Sequence[CorpusFile]
    on_news: Callable[[CountNews], None] | None
    started: float
    was_resumed: bool = False

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.sums = RunningSums(self.spec.n_entries)
        self._is_whole = True

    def go(self, checkpoint: Path | None) -> None:
        """Count everything that the checkpoint does not hold yet."""
        identity = self._identity()
        if checkpoint is not None and checkpoint.exists():
            found, self.progress, self.sums = read_checkpoint(checkpoint, n_entries=self.spec.n_entries)
            _check_identity(checkpoint, found, identity)
            self.was_resumed = True
        reader = CorpusReader(
            sources=self.sources,
            files=self.files,
            text_field=self.config.text_field,
            stops=self.config.on_error == "stop",
            progress=self.progress,
            block_bytes=self.config.block_bytes,
        )
        writer = _Writer(checkpoint, identity=identity, every_s=self.config.checkpoint_every_s)
        # A disk that cannot be written to shows now and not after the first minutes.
        writer.write(self.progress, self.sums)
        news = _News(self)
        try:
            with closing(self._count(news.watch(reader.tasks()))) as results:
                for found_counts in results:
                    if found_counts.faults and self.config.on_error == "stop":
                        raise fault_error(found_counts.faults[0])
                    self._fold(found_counts, reader)
                    writer.write_if_due(self.progress, self.sums)
                    news.tell()
            self._fold_faults(reader)
        except BaseException:
            if self._is_whole:  # an interrupt can come between the sums and the note of what is in them
                with suppress(OutlexError):  # what went wrong is the news, not that it cannot be kept
                    writer.write(self.progress, self.sums)
            raise
        if checkpoint is not None:
            # until the caller has saved the result, the checkpoint is all there is
            writer.write(self.progress, self.sums)

    def _count(self, tasks: Iterator[Task]) -> Generator[TaskCounts, None, None]:
        if self.config.backend == "ray":
            from outlex.calibration.ray_backend import count_on_ray

            return count_on_ray(self.spec, tasks, address=self.config.ray_address)
        n_workers = self.config.workers
        if n_workers is None:
            n_bytes = sum(file.n_bytes for file in self.files)
            n_workers = 1 if n_bytes < _SMALL_BYTES else _n_cores()
        if n_workers == 1:
            return count_here(self.spec, tasks)
        return count_in_processes(self.spec, tasks, n_processes=n_workers)

    def _fold(self, found: TaskCounts, reader: CorpusReader) -> None:
        self._is_whole = False
        self.sums.add(found, domain_field=self.config.domain_field)
        for block in found.blocks:
            self.progress.mark(*block)
        self._fold_faults(reader)
        self._is_whole = True

    def _fold_faults(self, reader: CorpusReader) -> None:
        while reader.faults:
            self.sums.add_fault(*reader.faults.pop(0))

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on; not on_error: a run that stopped can go on with skip."""
        return {
            "tokenizer": self.spec.fingerprint,
            "options": {
                "chats": self.config.chats,
                "text_field": self.config.text_field,
                "domain_field": self.config.domain_field,
                "block_bytes": self.config.block_bytes,
                "digest": self.spec.digest(),
            },
            "sources": [source.given for source in self.sources],
            "files": [[file.path, file.format, file.n_bytes, file.identity] for file in self.files],
        }


class _Writer:
    """Writes checkpoints, not too often."""

    def __init__(self, path: Path | None, *, identity: dict[str, Any], every_s: float) -> None:
        self._path = path
        self._identity = identity
        self._every_s = every_s
        self._next = 0.0

    def write(self, progress: Progress, sums: RunningSums) -> None:
        if self._path is None:
            return
        begun = time.monotonic()
        write_checkpoint(self._path, identity=self._identity, progress=progress, sums=sums)
        ended = time.monotonic()
        self._next = ended + max(self._every_s, (ended - begun) / _SHARE_OF_TIME)

    def write_if_due(self, progress: Progress, sums: RunningSums) -> None:
        if time.monotonic() >= self._next:
            self.write(progress, sums)


class _News:
    """Tells how far the reading of files has come."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        before = np.cumsum([0] + [file.n_bytes for file in run.files])
        self._before: list[int] = before.tolist()
        self._done = 0
        self._n_bytes_before, self._n_tokens_before = run.sums.n_bytes, run.sums.n_tokens

    def watch(self, tasks: Iterator[tuple[Block, ...]]) -> Iterator[Task]:
        for task in tasks:
            last = task[-1]
            self._done = self._before[last.file] + last.position
            yield task

    def tell(self) -> None:
        run = self._run
        if run.on_news is None:
            return
        n_tokens = run.sums.n_tokens
        run.on_news(
            CountNews(
                done_bytes=self._done,
                total_bytes=self._before[-1],
                n_tokens=n_tokens,
                n_bytes=run.sums.n_bytes - self._n_bytes_before,
                n_new_tokens=n_tokens - self._n_tokens_before,
                elapsed_s=time.monotonic() - run.started,
            )
        )


def _check_weights(config: CountConfig, sources: Sequence[Source]) -> None:
    """Find a misspelt domain before hours of counting, if all domains are known by then."""
    if any(source.domain is None for source in sources):
        return
    names = {source.domain for source in sources}
    unknown = sorted(set(config.weights) - names)
    if unknown:
        raise InputError(
            "A weight names a domain that is not counted",
            got=", ".join(unknown),
            expected=f"one of {', '.join(sorted(name for name in names if name)):.300}",
            next_step="correct the name after --weight",
        )


def _check_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found == wanted:
        return
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    changed = ", ".join(differing)
    if differing == ["files"]:
        before = {entry[0]: entry for entry in found["files"]}
        names = [file[0] for file in wanted["files"] if before.get(file[0]) != file]
        names += sorted(set(before) - {file[0] for file in wanted["files"]})
        changed = f"files: {', '.join(names)}"
    raise InputError(
        f"The unfinished count in {path} is of something else",
        got=f"changed since then: {changed:.300}",
        expected="the same sources, files, tokenizer and options",
        next_step="put them back to go on, pass --overwrite to count from the beginning, or choose another -o",
    )


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stats(run: _Run) -> TokenStats:
    sums = run.sums
    names = sorted(name for name, n in sums.n_documents.items() if n)
    if not names:
        skipped = sum(sums.n_faults.values())
        raise InputError(
            "There is not a single token in the corpus",
            got=f"{len(run.files)} files, {skipped} records left out" + (f"; {sums.faults[0]}" if sums.faults else ""),
            expected="text, or chats with answers",
            next_step="look at the files; --text-field names the field that holds the text",
        )
    described = []
    for index, source in enumerate(run.sources):
        files = [file for file in run.files if file.source == index]
        skipped_here = {reason: n for (at, reason), n in sorted(sums.n_faults.items()) if at == index}
        described.append(
            {
                "source": source.given,
                "n_files": len(files),
                "n_bytes": sum(file.n_bytes for file in files),
                "chats": run.config.chats,
                "text_field": run.config.text_field,
                "skipped": skipped_here,
            }
        )
    return TokenStats(
        domains=tuple(names),
        counts=torch.from_numpy(np.stack([sums.counts[name] for name in names])),
        documents=torch.from_numpy(np.stack([sums.documents[name] for name in names])),
        n_documents=tuple(sums.n_documents[name] for name in names),
        weights=tuple(float(run.config.weights.get(name, 1.0)) for name in names),
        tokenizer_fingerprint=run.spec.fingerprint,
        sources=tuple(described),
    )
