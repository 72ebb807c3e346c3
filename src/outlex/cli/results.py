"""A benchmark's result as one JSON value."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outlex.bench import BenchResult

__all__ = ["bench_json"]


def bench_json(result: BenchResult) -> dict[str, Any]:
    """What the file of `outlex bench -o` holds, and the verdicts in words."""
    from outlex.bench.result import header_of
    from outlex.bench.verdict import verdicts

    return {
        **header_of(result),
        "complete": result.complete,
        "summary": [summary.to_json() for summary in result.summary],
        "verdicts": verdicts(result),
        "rows": [asdict(row) for row in result.rows],
    }
