"""One run of counting: from files to sums, with checkpoints and news on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outlex.calibration.blocks import Block
from outlex.calibration.checkpoint import Progress, RunningSums, read_checkpoint
from outlex.calibration.corpus import CorpusFile, Source
from outlex.calibration.count_config import CountConfig
from outlex.calibration.counting import TaskCounts
from outlex.calibration.encoding import EncodingSpec
from outlex.calibration.faults import fault_error
from outlex.calibration.processes import Task, count_here, count_in_processes
from outlex.calibration.reading import CorpusReader
from outlex.calibration.resuming import CheckpointWriter, check_identity
from outlex.errors import OutlexError

__all__ = ["CountNews", "CountRun"]

_SMALL_BYTES = 8 << 20  # below it, starting processes takes longer than it saves


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


@dataclass(kw_only=True)
class CountRun:
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
            check_identity(checkpoint, found, identity)
            self.was_resumed = True
        reader = CorpusReader(
            sources=self.sources,
            files=self.files,
            text_field=self.config.text_field,
            stops=self.config.on_error == "stop",
            progress=self.progress,
            block_bytes=self.config.block_bytes,
        )
        writer = CheckpointWriter(checkpoint, identity=identity, every_s=self.config.checkpoint_every_s)
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


class _News:
    """Tells how far the reading of files has come."""

    def __init__(self, run: CountRun) -> None:
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


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
