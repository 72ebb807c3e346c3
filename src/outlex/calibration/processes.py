"""Counting in this process, or in several on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for

from outlex.calibration.blocks import Block
from outlex.calibration.counting import BlockCounter, TaskCounts
from outlex.calibration.encoding import EncodingSpec
from outlex.errors import OutlexError

__all__ = ["Task", "count_here", "count_in_processes"]

Task = tuple[Block, ...]

_TASKS_AHEAD = 2  # for each process: one that it works on, one that waits


def count_here(spec: EncodingSpec, tasks: Iterable[Task]) -> Generator[TaskCounts, None, None]:
    """Count the tasks one after the other in this process, with the tokenizer's own threads."""
    counter = BlockCounter(spec)
    for task in tasks:
        yield counter.count(task)


def count_in_processes(
    spec: EncodingSpec, tasks: Iterable[Task], *, n_processes: int
) -> Generator[TaskCounts, None, None]:
    """Count the tasks in processes that are started anew; results come in any order.

    Each process encodes with one thread: two processes keep two cores busy with everything, parsing and chat templates
    included, where the tokenizer's own threads would wait for these. Only a few tasks are read ahead. The processes end
    with this one, also when it is killed.

    Raises:
        OutlexError: a process was killed; or whatever counting raises.
    """
    pool = ProcessPoolExecutor(
        n_processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(spec,)
    )
    waiting: set[Future[TaskCounts]] = set()
    try:
        for task in tasks:
            waiting.add(pool.submit(_count, task))
            if len(waiting) >= n_processes * _TASKS_AHEAD:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise OutlexError(
            "A counting process ended before its work was done",
            got=f"{error}; most often the system stops a process because memory has run out",
            next_step="run the same command again: it goes on from the last checkpoint. Fewer --workers need less",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_counter: BlockCounter | None = None


def _begin(spec: EncodingSpec) -> None:
    """Prepare a process."""
    global _counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the same Ctrl-C, and ends the work in good order
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _counter = BlockCounter(spec)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)  # a killed parent cannot tell, and the pool would wait for work for ever


def _count(task: Task) -> TaskCounts:
    assert _counter is not None, "the initializer ran"
    return _counter.count(task)
