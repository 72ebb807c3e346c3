"""A finished benchmark: everything that was recorded, as one JSON file that gives it back unchanged."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from outlex.atomic import replace_file, sync_directory
from outlex.bench.rows import MethodInfo, Row
from outlex.bench.summary import MethodSummary, summarize
from outlex.errors import ArtifactError

__all__ = ["KIND", "SCHEMA", "BenchResult", "header_of"]

KIND = "outlex-bench"
SCHEMA = 1
_OBJECTS = ("config", "environment", "models", "memory")

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
        body = {**header_of(self), "complete": self.complete}
        body["summary"] = [summary.to_json() for summary in self.summary]
        rows = [asdict(row) for row in self.rows]
        body["checksum"] = _checksum({**body, "rows": rows})
        head = json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False)
        # one run a line: the file can be read, and compared, with line tools
        lines = ",\n  ".join(json.dumps(row, allow_nan=False) for row in rows)
        text = f'{head[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'
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
            body = _partial_body(text) if path.suffix == ".partial" else _body(text)
            return cls(
                **{name: body[name] for name in (*_OBJECTS, "complete")},
                methods=tuple(_record(MethodInfo, method) for method in body["methods"]),
                rows=tuple(_record(Row, row) for row in body["rows"]),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(
                f"{path} is not a benchmark result",
                got=repr(error),
                expected=f"{KIND}, schema {SCHEMA}, whole and as it was written",
                next_step="run the benchmark again, or copy the file again from where it was written",
            ) from error


def header_of(result: BenchResult) -> dict[str, Any]:
    """Everything but rows and summary, as JSON values."""
    head: dict[str, Any] = {"kind": KIND, "schema": SCHEMA}
    head.update((name, getattr(result, name)) for name in _OBJECTS)
    head["methods"] = [asdict(method) for method in result.methods]
    return head


def _body(text: str) -> dict[str, Any]:
    body = _checked_kind(json.loads(text))
    if body["checksum"] != _checksum(body):
        raise ValueError("its values were changed after it was written")
    return body


def _partial_body(text: str) -> dict[str, Any]:
    header, *rows = text.split("\n")
    # whatever follows the last line break was cut off in the middle
    rest = {"complete": False, "rows": [json.loads(line) for line in rows[:-1]]}
    return {**_checked_kind(json.loads(header)), **rest}


def _checked_kind(body: dict[str, Any]) -> dict[str, Any]:
    if (body["kind"], body["schema"]) != (KIND, SCHEMA):
        raise ValueError(f"kind {body['kind']!r}, schema {body['schema']!r}")
    return body


def _record(cls: type[T], values: dict[str, Any]) -> T:
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**arguments)


def _checksum(body: dict[str, Any]) -> str:
    """Of the values, not of how they are written: a file may be formatted anew."""
    rest = {key: value for key, value in body.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
