"""Tiny models and artifacts that the tests of the command line read and never change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_builders import GERMAN, N_ENTRIES, run, save_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of models.

    target; drafter, its first layer; other, with other weights; base, without chat template; german, with
    another tokenizer.
    """
    root = tmp_path_factory.mktemp("models")
    save_model(root / "target", n_layers=2)
    save_model(root / "drafter")
    save_model(root / "other", seed=7)
    save_model(root / "base", has_chat_template=False)
    save_model(root / "german", texts=GERMAN)
    return root


@pytest.fixture(scope="session")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token list with counts: every second id, hottest first."""
    path = tmp_path_factory.mktemp("counts") / "counts.json"
    path.write_text(json.dumps({str(i): 1000 - i for i in range(0, N_ENTRIES, 2)}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trimmed(models: Path, counts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drafter, trimmed to 290 of 330 rows."""
    path = tmp_path_factory.mktemp("trimmed") / "drafter-290"
    result = run("trim", models / "drafter", "--tokens", counts, "--size", 290, "-o", path)
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Two prompts as JSON lines."""
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "the river and"}, {"prompt": "a baker bakes", "id": "b", "domain": "bread"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short prompts as JSON lines."""
    path = tmp_path_factory.mktemp("texts") / "prompts.jsonl"
    lines = [{"id": f"p{i}", "prompt": f"the river {i} and the mill"} for i in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
