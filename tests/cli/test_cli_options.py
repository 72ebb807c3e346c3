"""Options that several commands share: threads, and the warning about a busy machine."""

from __future__ import annotations

import os

import pytest

from outlex.cli.options import Machine


@pytest.mark.parametrize(
    ("environment", "asked", "expected"),
    [("3", None, 3), ("3,2", None, 3), ("3", 5, 5), ("0", 5, 5), ("", 7, 7)],
)
def test_threads_asked_for_come_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: str, asked: int | None, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert Machine(threads=asked).n_threads == expected


@pytest.mark.parametrize("environment", ["", "0", "many"])
def test_threads_default_to_every_usable_core(monkeypatch: pytest.MonkeyPatch, environment: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 4}, raising=False)
    assert Machine().n_threads == 3


@pytest.mark.parametrize(("load", "is_told"), [(0.1, False), (1.9, False), (2.1, True), (9.0, True)])
def test_a_busy_machine_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], load: float, is_told: bool
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    Machine(threads=2).warn_if_busy()
    captured = capsys.readouterr()
    assert ("busy" in captured.err) == is_told
    assert captured.out == ""
