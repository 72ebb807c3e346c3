"""What goes to stderr while a model is fetched: lines in a log, bars on a terminal, or nothing."""

from __future__ import annotations

import logging

import pytest

from outlex.models.progress import Reporter


def test_a_log_gets_one_line_for_each_tenth(capfd: pytest.CaptureFixture[str]) -> None:
    with Reporter(enabled=True).download("fetching x", n_bytes=200_000_000) as update:
        for done in range(0, 200_000_001, 1_000_000):
            update(done)
        update(300_000_000)  # temporary files can be larger than the result
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0] == "fetching x: 0 of 200 MB"
    assert lines[-1] == "fetching x: 200 of 200 MB"


def test_a_log_gets_one_line_for_each_stage(capfd: pytest.CaptureFixture[str]) -> None:
    with Reporter(enabled=True).stages("converting x") as stage:
        stage("one [bold]")
        stage("two")
    assert capfd.readouterr() == ("", "converting x: one [bold]\nconverting x: two\n")


def test_switched_off_only_the_logger_hears_it(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    report = Reporter(enabled=False)
    with caplog.at_level(logging.INFO, logger="outlex.models"):
        report.note("something")
        with report.stages("x") as stage:
            stage("one")
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == ["something", "x: one"]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    report = Reporter(enabled=True)
    assert report.has_bars
    with report.download("fetching [x]", n_bytes=1000) as update:
        update(500)
        report.note("a line above the bar")
        update(1000)
    with report.stages("converting") as stage:
        stage("one")
    said = capfd.readouterr().err
    assert "fetching [x]" in said
    assert "1.0/1.0 kB" in said
    assert "a line above the bar" in said
