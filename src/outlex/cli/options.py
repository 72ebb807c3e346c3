"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.output import human_bytes, say
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.models import LanguageModel

__all__ = [
    "MODEL_HELP",
    "CrossTokenizerOption",
    "DeviceOption",
    "DtypeOption",
    "JsonOption",
    "Machine",
    "ThreadsOption",
    "check_other_prompts",
]

MODEL_HELP = "a catalogue name (qwen15, qwen05, smol135, gemma270), a directory, a .gguf file or a Hub id"
_PANEL = "Where it runs"

DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto, bfloat16, float32, float16 or float64; auto is bfloat16 where the hardware has it.",
        rich_help_panel=_PANEL,
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_PANEL)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads. Default: OMP_NUM_THREADS if it is set, else every core this process may use.",
        rich_help_panel=_PANEL,
    ),
]
CrossTokenizerOption = Annotated[
    bool,
    typer.Option(
        "--cross-tokenizer", help="Let --drafter have another tokenizer: it reads the text in its own tokens."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]


def check_other_prompts(*, tokens: Sequence[Path], traces: Sequence[Path]) -> None:
    """Refuse to forecast a list on the traces that it is ranked on.

    Raises:
        InputError: a path is given for both.
    """
    both = {path.resolve() for path in tokens} & {path.resolve() for path in traces}
    if both:
        raise InputError(
            "A list ranked on these traces cannot be forecast on them: it would look better than it is",
            got=f"{both.pop().name} as --tokens and as --traces",
            expected="other prompts to rank on than to forecast on",
            next_step="trace other prompts into another directory, and give one to each option",
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where models run.

    Attributes:
        dtype, device: as `load_model` takes them.
        threads: None chooses, see `n_threads`.
    """

    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None

    @property
    def n_threads(self) -> int:
        """The number asked for; else what OMP_NUM_THREADS says; else every core this process may use."""
        wished = re.match(r"\d+", os.environ.get("OMP_NUM_THREADS", ""))
        if self.threads is None and wished and int(wished[0]) > 0:
            return int(wished[0])
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.threads or usable or 1

    def warn_if_busy(self) -> None:
        """Say so when other processes compete for the cores: measured speeds mean little then."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        n_cores = os.cpu_count() or 1
        if load > n_cores / 2:
            say(
                f"this machine is busy (load {load:.1f} on {n_cores} cores): speeds will be too low, and"
                f" {self.n_threads} threads can be slower than one",
                style="yellow",
            )

    def load(self, source: str) -> LanguageModel:
        """Load a model, and say on stderr what came and how long it took."""
        import time

        from outlex.models import load_model

        say(f"loading {source} ...", style="dim")
        start = time.perf_counter()
        model = load_model(source, dtype=self.dtype, device=self.device, threads=self.n_threads)
        say(
            f"{model.name}: {human_bytes(model.n_bytes)} in {self.dtype_name(model)} on {model.device},"
            f" {self.n_threads} threads, ready after {time.perf_counter() - start:.1f} s",
            style="dim",
        )
        return model

    def to_json(self, model: LanguageModel) -> dict[str, Any]:
        """What was chosen."""
        return {"dtype": self.dtype_name(model), "device": str(model.device), "threads": self.n_threads}

    @staticmethod
    def dtype_name(model: LanguageModel) -> str:
        """bfloat16 rather than torch.bfloat16."""
        return str(model.dtype).removeprefix("torch.")
