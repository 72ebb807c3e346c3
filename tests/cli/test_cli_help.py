"""Help texts: examples that are true, exit codes, and no heavy imports."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from cli_builders import run

import outlex

COMMANDS = ("demo", "trim", "generate", "bench", "inspect", "count", "merge")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is folded, so that texts can be searched."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")


def test_root_help_lists_commands_and_exit_codes() -> None:
    text = run("--help").stdout
    assert all(f" {command} " in text for command in COMMANDS)
    for code in ("0 all went well", "130 stopped with Ctrl-C"):
        assert code in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_whose_options_exist(command: str) -> None:
    text = run(command, "--help").stdout
    assert "--json" in text
    examples = re.sub(r"\\\s*\n", " ", text.partition("Example:")[2].partition("╭")[0])
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    for line in lines:
        program, name, *arguments = shlex.split(line)
        assert (program, name) == ("outlex", command)
        for argument in arguments:
            if argument.startswith("-"):
                assert re.search(rf"(?<![\w-]){re.escape(argument)} ", text.partition("╭")[2]), argument


def test_version() -> None:
    assert run("--version").stdout == f"outlex {outlex.__version__}\n"


def test_help_and_usage_errors_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from outlex.cli import main\n"
        "for argv in (['--help'], ['generate', '--help'], ['bench', '--nonsense']):\n"
        "    sys.argv = ['outlex', *argv]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as stop:\n"
        "        print('code', stop.code)\n"
        "print('loaded', *sorted({m.partition('.')[0] for m in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.findall(r"^code (\d+)$", done.stdout, re.MULTILINE) == ["0", "0", "2"]
    loaded = set(done.stdout.rpartition("loaded ")[2].split())
    assert not loaded & {"torch", "transformers", "numpy", "tokenizers", "huggingface_hub", "scipy", "gguf"}


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["trim", "--nonsense"], "--nonsense"),
        (["generate", "-p", "x"], "--target"),
        (["generate", "--target", "x", "-p", "x", "--proposal", "magic"], "magic"),
        (["generate", "--target", "x", "-p", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["demo", "--pair", "nobody"], "nobody"),
        (["dem"], "dem"),
    ],
)
def test_usage_errors_end_with_2_and_name_the_culprit(arguments: list[str], needle: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert needle in result.stderr
