"""Prompts over source and documentation of the Python packages that outlex itself needs (all permissively licensed)."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import random
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PACKAGES", "package_prompts"]

PACKAGES = ("huggingface_hub", "numpy", "rich", "scipy", "tokenizers", "torch", "transformers", "typer")

_CHARS = (200, 1600)  # of a docstring or a function that becomes part of a prompt
_PROSE = ("Summarize: {text}", "Explain this in simple words:\n{text}", "Rewrite this text in one paragraph:\n{text}")
_SOURCE = (
    "Explain this Python function:\n{source}",
    "What does this code do?\n\n{source}",
    "Write a docstring for this function:\n{source}",
    "Write a unit test for this function:\n{source}",
)
_WANTED = (
    "Complete this Python function:\n{head}",
    "Write a Python function that does this: {line}",
    "Complete this Python function:\n\n\n{head}",
)


def package_prompts(n_prompts: int, *, seed: int) -> Iterator[tuple[str, str]]:
    """Prompts about what is installed.

    Args:
        n_prompts: how many, at most.
        seed: decides the files and the templates; the same versions of the packages give the same prompts.

    Yields:
        Kind (`code` or `summary`) and prompt.
    """
    rng = random.Random(seed)
    files = [path for package in PACKAGES for path in _source_files(package)]
    rng.shuffle(files)
    n_made = 0
    for path in files:
        functions = list(_documented_functions(path))
        # two of a file at most: neighbours say the same things
        for source, docstring in rng.sample(functions, min(2, len(functions))):
            if n_made == n_prompts:
                return
            yield _prompt(source, docstring, rng)
            n_made += 1


def _source_files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent
    return sorted(p for p in root.rglob("*.py") if "test" not in p.as_posix()[len(root.as_posix()) :])


def _documented_functions(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8", errors="ignore")
    try:
        tree = ast.parse(text)
    except SyntaxError:  # templates that are no Python yet
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
            source = ast.get_source_segment(text, node) or ""
            if _CHARS[0] <= len(docstring) <= _CHARS[1] and len(source) <= 2 * _CHARS[1]:
                yield inspect.cleandoc(source), docstring


def _prompt(source: str, docstring: str, rng: random.Random) -> tuple[str, str]:
    choice = rng.random()
    if choice < 0.3:
        return "summary", rng.choice(_PROSE).format(text=docstring)
    if choice < 0.6 and len(source) <= _CHARS[1]:
        return "code", rng.choice(_SOURCE).format(source=source)
    first = docstring.split("\n\n")[0].replace("\n", " ")
    signature = source.split(":\n")[0] + ":"
    head = f'{signature}\n    """{first}"""\n'
    return "code", rng.choice(_WANTED).format(head=head, line=first)
