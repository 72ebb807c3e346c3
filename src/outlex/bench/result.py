"""A finished benchmark: everything that was recorded, as one JSON file that gives it back unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from outlex.atomic import replace_file, sync_directory
from outlex.bench.rows import MethodInfo, Row
from outlex.bench.summary import MethodSummary, summarize
from outlex.errors import ArtifactError

__all__ = ["KIND", "SCHEMA", "BenchResult", "header_of", "parse_header"]

KIND = "outlex-bench"
SCHEMA = 1
_OBJECTS = ("config", "environment", "models", "memory")
_AGAIN = "run the benchmark again, or take the file from where it was written"
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "tuple[int, ...]": (list,),
}

T = TypeVar("T", bound=MethodInfo | Row)


@dataclass(frozen=True, kw_only=True, eq=True)
class BenchResult:
    """What was measured, on what, with what.

    Attributes:
        config: `BenchConfig.to_json`.
        environment: `describe_environment`.
        models: name, rows, bytes and dtype of target, drafter and trimmed drafters.
        memory: `memory_use` after the last run, in bytes; empty if the benchmark did not get there.
        methods: in the order of the table.
        rows: every run, in the order they were made.
        complete: False if the benchmark was cut off.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    models: dict[str, Any]
    memory: dict[str, Any]
    methods: tuple[MethodInfo, ...]
    rows: tuple[Row, ...]
    complete: bool = True

    @cached_property
    def summary(self) -> tuple[MethodSummary, ...]:
        """Computed from the rows: one a temperature and method."""
        return summarize(self.rows, self.methods, draft_len=self.config["draft_len"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON file in one step; its folder must exist.

        The summary is written for readers of the file; `load` computes it anew from the rows.

        Raises:
            ArtifactError: the disk refuses; an older file is still whole.
        """
        path = Path(path)
        head = {**header_of(self), "complete": self.complete, "summary": [s.to_json() for s in self.summary]}
        # one run a line: the file can be read, and compared, with line tools
        lines = ",\n  ".join(json.dumps(asdict(row), allow_nan=False) for row in self.rows)
        text = json.dumps(head, indent=1, allow_nan=False, ensure_ascii=False)
        text = f'{text[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'
        try:
            replace_file(path, text.encode())
            sync_directory(path.parent)
        except OSError as error:
            raise ArtifactError(
                "The result cannot be written",
                got=error,
                expected="a folder that exists, and room in it",
                next_step="choose another file with -o",
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BenchResult:
        """Read what `save` wrote, or the `.partial` file of a benchmark that was cut off.

        Raises:
            ArtifactError: missing, truncated, changed, or no benchmark result of this version.
        """
        path = Path(path)
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(path, error) from error
        try:
            if path.suffix == ".partial":
                first, *rest = text.split("\n")
                # the last line may have been cut off in the middle; the one before it ended with a line break
                body = {
                    **json.loads(first),
                    "complete": False,
                    "rows": [json.loads(line) for line in rest[:-1]],
                }
            else:
                body = json.loads(text)
            return cls(
                **parse_header(body),
                rows=tuple(_record(Row, row) for row in body["rows"]),
                complete=bool(body["complete"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, repr(error)) from error


def header_of(result: BenchResult) -> dict[str, Any]:
    """Everything but rows and summary, as JSON values."""
    head: dict[str, Any] = {"kind": KIND, "schema": SCHEMA}
    head.update((name, getattr(result, name)) for name in _OBJECTS)
    head["methods"] = [asdict(method) for method in result.methods]
    return head


def parse_header(body: dict[str, Any]) -> dict[str, Any]:
    """Arguments for `BenchResult` from what `header_of` gave.

    Raises:
        ValueError, KeyError, TypeError: it is something else.
    """
    if body["kind"] != KIND or body["schema"] != SCHEMA:
        raise ValueError(
            f"kind {body['kind']!r}, schema {body['schema']!r}; this version reads {KIND!r}, {SCHEMA}"
        )
    objects = {name: body[name] for name in _OBJECTS}
    if not all(isinstance(value, dict) for value in objects.values()):
        raise TypeError(f"{', '.join(_OBJECTS)} must be objects")
    if not isinstance(objects["config"]["draft_len"], int):
        raise TypeError("config.draft_len must be an integer")
    return {**objects, "methods": tuple(_record(MethodInfo, method) for method in body["methods"])}


def _record(cls: type[T], values: dict[str, Any]) -> T:
    """A dataclass from JSON values; its own annotations say what is allowed."""
    for field in fields(cls):
        annotation = str(field.type)
        plain = annotation.removesuffix(" | None")
        value = values[field.name]
        fine = plain != annotation if value is None else isinstance(value, _PLAIN[plain])
        if not fine or isinstance(value, bool):
            raise TypeError(f"{field.name} = {value!r:.60}, expected {annotation}")
    unknown = set(values) - {field.name for field in fields(cls)}
    if unknown:
        raise TypeError(f"unknown fields {sorted(unknown)}")
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**arguments)


def _damaged(path: Path, got: object) -> ArtifactError:
    return ArtifactError(
        f"{path} is not a benchmark result",
        got=got,
        expected=f"{KIND}, schema {SCHEMA}, complete",
        next_step=_AGAIN,
    )
