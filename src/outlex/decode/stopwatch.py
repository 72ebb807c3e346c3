"""Splits the wall time of decoding into the drafter's forwards, the target's, and everything else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

__all__ = ["Stopwatch", "TimeSplit", "now"]


def now(device: torch.device) -> float:
    """Seconds of a steady clock, after waiting for the device: kernels on a GPU run behind Python's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Seconds.

    Attributes:
        draft_s, target_s: inside the two models' forwards.
        head_s: the draft head's part of `draft_s`.
        other_s: the rest of the wall time: proposals, verification, Python, text.
        paused_s: spent on measurements; no part of the wall time.
    """

    draft_s: float = 0.0
    head_s: float = 0.0
    target_s: float = 0.0
    other_s: float = 0.0
    paused_s: float = 0.0

    @property
    def wall_s(self) -> float:
        return self.draft_s + self.target_s + self.other_s

    def __add__(self, other: TimeSplit) -> TimeSplit:
        return TimeSplit(
            draft_s=self.draft_s + other.draft_s,
            head_s=self.head_s + other.head_s,
            target_s=self.target_s + other.target_s,
            other_s=self.other_s + other.other_s,
            paused_s=self.paused_s + other.paused_s,
        )


class Stopwatch:
    """Times laps: `start`, sections inside, `lap`.

    Args:
        device: where the work runs. On CUDA, kernels run behind Python's back: their time is only seen if the device
            is waited for at the ends of a section.
        synchronize: wait for it. Off outside benchmarks, where the wait itself would cost speed; the split between
            draft, target and other then shows launch times on CUDA.
    """

    def __init__(self, device: torch.device, *, synchronize: bool) -> None:
        self._now = partial(now, device) if synchronize else time.perf_counter
        self._seconds = {"draft": 0.0, "head": 0.0, "target": 0.0, "paused": 0.0}
        self._lap_start = 0.0
        self.start()

    def start(self) -> None:
        """Start a lap: what the caller did since the last one is not booked."""
        self._lap_start = self._now()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Book the time inside under "draft", "head", "target", or "paused" (left out of the wall time)."""
        start = self._now()
        yield
        self._seconds[name] += self._now() - start

    def lap(self) -> TimeSplit:
        """The split since `start` or the last lap."""
        now = self._now()
        wall = now - self._lap_start - self._seconds["paused"]
        draft_s, target_s = self._seconds["draft"] + self._seconds["head"], self._seconds["target"]
        split = TimeSplit(
            draft_s=draft_s,
            head_s=self._seconds["head"],
            target_s=target_s,
            other_s=wall - draft_s - target_s,
            paused_s=self._seconds["paused"],
        )
        self._lap_start = now
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        return split
