"""`outlex verify`: verdicts, exit codes, JSON, and what cannot be asked."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cli_builders import json_of, run

from outlex.cli.verify_run import stdout_kept_clean

BRIEF = ("--samples", 60, "--max-new-tokens", 4, "--greedy-tokens", 8, "--limit", 2, "--threads", 1, "--device", "cpu")


def arguments(models: Path, engine: str, *more: object) -> tuple[object, ...]:
    return ("verify", engine, "--target", models / "target", *BRIEF, *more)


def test_our_loop_with_a_trimmed_drafter_is_lossless_so_far(models: Path, trimmed: Path) -> None:
    result = run(*arguments(models, "outlex", "--trimmed", trimmed))
    assert result.exit_code == 0, result.stderr
    assert "lossless so far" in result.stdout
    assert "2 of 2 outputs equal" in result.stdout
    assert "draft tokens were accepted" in result.stdout
    assert "found with probability 0.9" in result.stderr  # power is stated before anything is drawn
    assert "false-alarm rate 0.01" in result.stderr


def test_json_holds_the_verdict(models: Path, prompts: Path) -> None:
    value: Any = json_of(
        run(*arguments(models, "transformers", "--drafter", models / "drafter", "--prompts", prompts, "--json"))
    )
    assert value["lossless_so_far"] is True
    assert value["greedy"]["n_equal"] == 2
    assert value["sampled"]["n_samples"] == 60
    assert value["sampled"]["flagged_at"] is None
    assert value["n_accepted"] > 0
    assert value["params"]["temperature"] == 1.0


def test_temperature_0_checks_greedy_outputs_alone(models: Path) -> None:
    value: Any = json_of(run(*arguments(models, "transformers", "--prompt-lookup", "--temperature", 0, "--json")))
    assert value["sampled"] is None
    assert value["greedy"]["disagreements"] == []


def test_a_departure_ends_with_exit_code_1_and_says_where(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlex.verify.residual", lambda p, q: q / q.sum(-1, keepdim=True))
    result = run(*arguments(models, "outlex", "--drafter", models / "other", "--samples", 400))
    assert result.exit_code == 1, result.stderr
    assert "the law departs" in result.stdout
    assert "flagged" in result.stdout
    assert "came " in result.stdout


@pytest.mark.parametrize(
    ("engine", "options", "needle"),
    [
        ("outlex", ("--prompt-lookup",), "says nothing to this engine"),
        ("outlex", ("--speculative-config", "{}"), "says nothing to this engine"),
        ("transformers", ("--engine-args", "{}"), "says nothing to this engine"),
        ("vllm", ("--engine-args", "[1]"), "What --engine-args says is no JSON object"),
        ("outlex", ("--base-url", "http://127.0.0.1:1/v1"), "says nothing to this engine"),
        ("transformers", ("--prompt-lookup", "--drafter", "x"), "from a drafter or from the prompt"),
        ("openai", (), "--base-url"),
        ("outlex", ("--samples", "10", "--false-alarm", "2"), "cannot be run"),
        ("outlex", ("--engine-dtype", "int8"), "type rounds"),
        ("outlex", ("--temperature", "-1"), "temperature"),
        ("nobody", (), "nobody"),
        ("vllm", ("--speculative-config", "{"), "no JSON object"),
    ],
)
def test_what_cannot_be_asked_ends_with_2(models: Path, engine: str, options: tuple[str, ...], needle: str) -> None:
    result = run(*arguments(models, engine, *options))
    assert result.exit_code == 2, result.stderr
    assert needle in result.stderr
    assert result.stdout == ""


def test_a_trimmed_drafter_is_refused_where_the_engine_takes_none(models: Path, trimmed: Path) -> None:
    result = run(*arguments(models, "transformers", "--trimmed", trimmed))
    assert result.exit_code == 2
    assert "takes no trimmed drafter" in result.stderr


def test_a_server_that_is_not_there_is_an_error_and_no_departure(models: Path) -> None:
    result = run(*arguments(models, "openai", "--base-url", "http://127.0.0.1:9/v1"))
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "departs" not in result.stderr + result.stdout
    assert "loading" not in result.stderr


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (("--drafter", "nowhere"), "no such model"),
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--trimmed", "nowhere"), "nowhere"),
    ],
)
def test_nothing_is_loaded_before_what_is_wrong_is_found(models: Path, options: tuple[str, ...], needle: str) -> None:
    result = run(*arguments(models, "outlex", *options))
    assert result.exit_code != 0
    assert needle in result.stderr
    assert "loading" not in result.stderr


def test_what_an_engine_prints_is_not_in_the_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(ZeroDivisionError), stdout_kept_clean():
        os.write(1, b"noise\n")
        raise ZeroDivisionError
    os.write(1, b"verdict\n")
    assert capfd.readouterr() == ("verdict\n", "noise\n")
