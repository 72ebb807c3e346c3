"""What the demo does, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.bench import BenchResult

__all__ = ["PAIRS", "DemoConfig", "DemoResult"]

# name -> target, drafter
PAIRS: Mapping[str, tuple[str, str]] = MappingProxyType({"qwen": ("qwen15", "qwen05"), "smol": ("smol135", "smol135")})


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo does. The defaults take about four minutes of decoding on two cores.

    Attributes:
        target, drafter: what `load_model` loads them by.
        size: rows of the trimmed head.
        budget_s: seconds of decoding. Except the first, a prompt is begun only if it will probably end in
            time, and every method finishes a prompt that was begun.
        max_new_tokens: tokens of output a prompt.
        draft_len: γ.
        temperatures: each is measured on its own.
        dtype, device, threads, cache_dir: as in `load_model`.

    Raises:
        InputError: a budget that is no positive number.
    """

    target: str = "qwen15"
    drafter: str = "qwen05"
    size: int = 16_384
    budget_s: float = 240.0
    max_new_tokens: int = 32
    draft_len: int = 4
    temperatures: tuple[float, ...] = (0.0, 1.0)
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cache_dir: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise InputError(
                "The demo needs some time",
                got=f"{self.budget_s} s",
                expected="a positive number of seconds",
                next_step="give --budget-s 60 for a short look",
            )


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What came out.

    Attributes:
        bench: the measurement.
        trimmed: directory of the trimmed drafter.
        ranking, prompts, result: files with the token ranking, the demo's prompts and the measurement, for
            commands to go on with.
        n_draft, n_full: rows of the draft head, after and before.
        coverage: of the tokens that the target writes on its own (method "ar", all temperatures), the share
            that is in the draft vocabulary.
        seconds: how long each part took: "models", "vocabulary", "decoding".
    """

    bench: BenchResult
    trimmed: Path
    ranking: Path
    prompts: Path
    result: Path
    n_draft: int
    n_full: int
    coverage: float
    seconds: dict[str, float]
