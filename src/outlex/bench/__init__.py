"""Measures decoding: prompts, methods, runs, a JSON result, and tables made from it."""

from outlex.bench.config import BenchConfig
from outlex.bench.result import BenchResult
from outlex.bench.run import run_bench

__all__ = ["BenchConfig", "BenchResult", "run_bench"]
