"""Counting on a Ray cluster: the same tasks, the same sums."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from outlex.calibration.counting import BlockCounter, TaskCounts
from outlex.calibration.encoding import EncodingSpec
from outlex.calibration.processes import Task
from outlex.errors import InputError, OutlexError

__all__ = ["count_on_ray"]

_TASKS_AHEAD = 2
_N_RETRIES = 10
_counters: dict[str, BlockCounter] = {}


def count_on_ray(
    spec: EncodingSpec, tasks: Iterable[Task], *, address: str | None
) -> Generator[TaskCounts, None, None]:
    """Count the tasks on a cluster; results come in any order.

    This process reads and cuts the files and sends the blocks, so only row groups of Parquet files are read by the
    workers: these must have the same path on every node. outlex has to be installed there too. A task whose worker dies
    is run again; its sums come back once, so that nothing is counted twice.

    Args:
        spec: see `BlockCounter`.
        tasks: as `CorpusReader` makes them.
        address: of the cluster, as ``ray.init`` takes it; None uses RAY_ADDRESS, or starts one on this machine.

    Raises:
        InputError: Ray is not installed.
        OutlexError: the cluster cannot be reached, or a task fails however often it is run.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--backend ray needs a package that is not installed",
            got="missing: ray",
            next_step="pip install 'outlex[ray]'",
        ) from error
    was_connected = ray.is_initialized()
    if not was_connected:
        try:
            ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
        except Exception as error:  # Ray raises its own, gRPC's and Python's
            raise _unusable(f"{type(error).__name__}: {error}") from error
    try:
        count = ray.remote(num_cpus=1, max_retries=_N_RETRIES)(_count)
        sent_spec, digest = ray.put(spec), spec.digest()
        n_waiting = max(2, int(ray.cluster_resources().get("CPU", 1))) * _TASKS_AHEAD
        waiting: list[Any] = []
        for task in tasks:
            waiting.append(count.remote(sent_spec, digest, task))
            if len(waiting) >= n_waiting:
                done, waiting = ray.wait(waiting)
                yield from _results(ray, done)
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from _results(ray, done)
    finally:
        if not was_connected:
            ray.shutdown()


def _results(ray: Any, done: list[Any]) -> Iterator[TaskCounts]:
    try:
        found = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OutlexError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise _unusable(f"{type(error).__name__}: {error}") from error
    yield from found


def _unusable(got: str) -> OutlexError:
    return OutlexError(
        "The Ray cluster does not do the work",
        got=got.partition("\n")[0],
        next_step="check it with `ray status`; the same command again goes on from the last checkpoint",
    )


def _count(spec: EncodingSpec, digest: str, task: Task) -> TaskCounts:
    """Runs in a Ray worker, which keeps the tokenizer for the next task."""
    if digest not in _counters:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        _counters.clear()
        _counters[digest] = BlockCounter(spec)
    return _counters[digest].count(task)
