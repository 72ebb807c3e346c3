"""`outlex bench`: the file, the table from it, and early refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_builders import json_of, run

from outlex.bench import BenchResult

SHORT = ("--max-new-tokens", 6, "--dtype", "float32", "--temperature", 0)


def test_the_file_the_json_and_the_table_agree(models: Path, trimmed: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    shown = json_of(
        run(
            *("bench", "--target", models / "target", "--drafter", models / "drafter", "--trimmed", trimmed),
            *(
                "--prompts",
                prompts,
                "--baselines",
                "ar, untrimmed",
                "--draft-len",
                2,
                "-o",
                out,
                "--json",
                *SHORT,
            ),
        )
    )
    saved = BenchResult.load(out)
    assert [method["name"] for method in shown["methods"]] == ["ar", "untrimmed", "trimmed-290"]
    assert len(shown["rows"]) == len(saved.rows) == 3 * 2
    assert shown["summary"] == json.loads(out.read_text(encoding="utf-8"))["summary"]
    assert shown["config"]["draft_len"] == 2
    assert len(shown["verdicts"]) >= 1
    same = [s["n_same_as_ar"] for s in shown["summary"]]
    assert same == [2, 2, 2]  # greedy in float32: token for token
    table = run("inspect", out)
    assert table.exit_code == 0
    assert "trimmed-290" in table.stdout
    assert json_of(run("inspect", out, "--json"))["summary"] == shown["summary"]
    assert run("inspect", out, "--target", models / "target").exit_code == 2


def test_table_goes_to_stdout_and_progress_to_stderr(models: Path, prompts: Path) -> None:
    result = run(
        *(
            "bench",
            "--target",
            models / "target",
            "--prompts",
            prompts,
            "--baselines",
            "ar",
            "--limit",
            1,
            *SHORT,
        )
    )
    assert result.exit_code == 0, result.stderr
    assert "tokens/s" in result.stdout
    assert "warm-up" in result.stderr
    assert "warm-up" not in result.stdout


def test_temperatures_default_to_0_and_1(models: Path, prompts: Path) -> None:
    shown = json_of(
        run(
            *("bench", "--target", models / "target", "--prompts", prompts, "--baselines", "ar"),
            *("--max-new-tokens", 4, "--json"),
        )
    )
    assert [s["temperature"] for s in shown["summary"]] == [0.0, 1.0]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for output in (tmp_path, tmp_path / "file" / "result.json"):
        result = run("bench", "--target", "nobody", "--prompts", prompts, "--baselines", "ar", "-o", output)
        assert result.exit_code == 1
        assert "cannot be written" in result.stderr
        assert "-o" in result.stderr


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("{", "line 2"),
        ("[1]", "line 2"),
        ('{"text": "x"}', "line 2"),
        ('{"prompt": ""}', "line 2"),
        ('{"messages": []}', "line 2"),
    ],
)
def test_malformed_prompts_name_the_line(tmp_path: Path, line: str, needle: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n', encoding="utf-8")
    result = run("bench", "--target", "nobody", "--prompts", path, "--baselines", "ar")
    assert result.exit_code == 2
    assert needle in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["--prompts", "no-such-file", "--baselines", "ar"], 2, "no-such-file"),
        (["--prompts", "{prompts}"], 2, "--drafter"),
        (["--prompts", "{prompts}", "--baselines", "magic"], 2, "magic"),
        (["--prompts", "{prompts}", "--baselines", ""], 2, "nothing to measure"),
        (["--prompts", "{prompts}", "--baselines", "ar", "--limit", "3"], 2, "1 to 2"),
        (["--prompts", "{prompts}", "--baselines", "ar", "--temperature", "-1"], 2, "temperature"),
        (["--prompts", "{prompts}", "--baselines", "ar"], 1, "no such model"),
    ],
)
def test_bad_benchmarks_are_explained(prompts: Path, arguments: list[str], code: int, needle: str) -> None:
    filled = [argument.format(prompts=prompts) for argument in arguments]
    result = run("bench", "--target", "nobody", *filled)
    assert result.exit_code == code
    assert needle in result.stderr
    assert result.stdout == ""
