"""`outlex retrace`: another drafter on texts that are traced already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlex.cli.options import (
    MODEL_HELP,
    CrossTokenizerOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    Machine,
    ThreadsOption,
)
from outlex.cli.progress import Ticker
from outlex.cli.trace import resumable, show
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet

__all__ = ["retrace"]


@dataclass(frozen=True, kw_only=True)
class RetraceConfig:
    """One run.

    Attributes:
        traces: directory of `outlex trace`.
        drafter: what `load_model` loads it by.
        output: directory of the new traces.
        batch_size, cross_tokenizer: as `outlex.calibration.retrace.retrace` takes them.
        machine: where the drafter runs.
    """

    traces: Path
    drafter: str
    output: Path
    batch_size: int
    cross_tokenizer: bool
    machine: Machine


def retrace(
    traces: Annotated[Path, typer.Option("--traces", help="Directory of `outlex trace`.")],
    drafter: Annotated[str, typer.Option("--drafter", help=f"The other drafter: {MODEL_HELP}.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write; a run that was stopped goes on there.")
    ],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts that are committed together.")] = 8,
    cross_tokenizer: CrossTokenizerOption = False,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Trace another drafter on texts that are traced already.

    The target is not run again: its states, its text and its temperature stay as they are, and only the new drafter
    reads. Two drafters on the same texts can be compared position by position. An EAGLE drafter reads more of the
    target than traces hold: `outlex trace` takes it.

    \b
    Example:
      outlex retrace --traces traces --drafter smol135 --cross-tokenizer -o traces-smol
    """
    config = RetraceConfig(
        traces=traces,
        drafter=drafter,
        output=output,
        batch_size=batch_size,
        cross_tokenizer=cross_tokenizer,
        machine=Machine(dtype=dtype, device=device, threads=threads),
    )
    show(_run(config), config.output, as_json=as_json)


def _run(config: RetraceConfig) -> TraceSet:
    from outlex.calibration.retrace import retrace as run
    from outlex.calibration.trace_files import find_header
    from outlex.calibration.traces import TraceSet
    from outlex.formats.eagle_checkpoint import is_eagle_directory

    if is_eagle_directory(config.drafter):
        raise InputError(
            "An EAGLE drafter cannot be retraced: it reads hidden states of the target at every token of the prompt and"
            " from several layers, and traces hold the last ones of the answers",
            got=f"--drafter {config.drafter}",
            expected=MODEL_HELP,
            next_step="let the target read as well: outlex trace --target TARGET --drafter"
            f" {config.drafter} --prompts PROMPTS -o {config.output}",
        )
    find_header(config.output)  # refuses a wrong place before anything is loaded
    traces = TraceSet.load(config.traces)
    drafter = config.machine.load(config.drafter)
    with Ticker() as ticker, resumable(config.output):
        return run(
            traces,
            drafter,
            config.output,
            batch_size=config.batch_size,
            cross_tokenizer=config.cross_tokenizer,
            on_progress=ticker.of_total,
        )
