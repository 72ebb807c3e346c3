"""What only a process shows: Ctrl-C, a full disk behind stdout, bugs, and streams that are kept apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_builders import save_model

from outlex.cli import main
from outlex.cli.failures import explain
from outlex.cli.output import copyable, emit_json, human_bytes, human_duration

PROGRAM = (sys.executable, "-c", "from outlex.cli import main; main()")
# a shell that starts the tests in the background ignores SIGINT, and its children inherit that
PROGRAM_THAT_HEARS = (
    *PROGRAM[:2],
    f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {PROGRAM[2]}",
)


def test_ctrl_c_during_generation_ends_with_130_and_no_trace(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", context=1_000_000)
    process = subprocess.Popen(
        [*PROGRAM_THAT_HEARS, "generate", "--target", str(model), "--raw", "-p", "the", "--max-new-tokens", "900000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.read(1)  # it is decoding
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"interrupted" in stderr
    assert b"Traceback" not in stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_told(trimmed: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, "inspect", str(trimmed), "--json"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["outlex", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_json_is_alone_on_stdout(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "generate",
        "--target",
        models / "target",
        "-p",
        "é",
        "--json",
        "--max-new-tokens",
        5,
        "--show-blocks",
    )
    assert run_main(monkeypatch, *arguments) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["stats"]["n_tokens"] == 5
    assert captured.out.isascii()
    assert "loading" in captured.err
    assert "accepted" in captured.err


def test_a_bug_keeps_its_trace_and_asks_for_a_report(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("outlex.decode.decoder.SpeculativeDecoder.stream", broken)
    assert run_main(monkeypatch, "generate", "--target", models / "target", "-p", "x") == 1
    captured = capfd.readouterr()
    assert "ZeroDivisionError: a bug" in captured.err
    assert "Please report this" in captured.err
    assert captured.out == ""


def test_a_reader_that_goes_away_is_no_error(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(*arguments: object, **options: object) -> None:
        raise BrokenPipeError

    silenced: list[bool] = []
    monkeypatch.setattr("outlex.cli.inspect_model.print_model", gone)
    monkeypatch.setattr("outlex.cli.app.silence_stdout", lambda: silenced.append(True))
    assert run_main(monkeypatch, "inspect", models / "target") == 1
    assert silenced == [True]
    assert "error" not in capfd.readouterr().err


def test_errors_of_the_system_and_of_memory_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(PermissionError(13, "Permission denied", "there")) == 1
    assert explain(MemoryError()) == 1
    assert explain(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.\nmore")) == 1
    assert explain(ValueError("a bug")) is None
    told = capsys.readouterr().err
    for needle in ("Permission denied", "there", "not enough memory", "CUDA out of memory."):
        assert needle in told
    assert "more" not in told.partition("CUDA")[2].partition("next")[0]


def test_no_colour_reaches_a_file(
    models: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_main(monkeypatch, "inspect", models / "nowhere") == 1
    assert "\x1b" not in capfd.readouterr().err


def test_json_has_no_nan_and_keeps_nested_values(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"a": float("nan"), "b": [(1, float("inf"))], "c": "ü\ud800", 3: None})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"a": None, "b": [[1, None]], "c": "ü\ud800", "3": None}


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (272_269_312, "272.3 MB"), (3.1e9, "3.10 GB")],
)
def test_human_bytes(n_bytes: float, text: str) -> None:
    assert human_bytes(n_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.4, "59.4 s"), (75.2, "1 min 15 s")])
def test_human_duration(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_commands_can_be_pasted_where_outlex_is_not_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "bin" / "outlex"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", os.devnull)
    assert copyable(["inspect", "a b"]) == f"{script} inspect 'a b'"
    monkeypatch.chdir(tmp_path)
    assert copyable(["inspect"]) == "bin/outlex inspect"
    monkeypatch.setenv("PATH", str(script.parent))
    assert copyable(["inspect"]) == "outlex inspect"
