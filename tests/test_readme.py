"""What the README says is what is recorded, and its example names exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import outlex
from outlex.bench import BenchResult

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_table_is_the_recorded_one() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "readme_table.py"))
    assert script["readme_table"](BenchResult.load(script["RESULT"])) in README


def test_names_in_the_python_example_are_public() -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example
    compile(example[1], "README", "exec")
    names = set(re.findall(r"outlex\.(\w+)", example[1]))
    assert names
    assert names <= set(outlex.__all__)


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("docs/*.md"), ROOT / "README.md"])


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target
