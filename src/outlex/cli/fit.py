"""`outlex fit`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.options import DeviceOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import copyable, emit_json, say, stdout_console
from outlex.cli.progress import Ticker

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.tuning import Tuned, TuneSettings

__all__ = ["Family", "fit", "limited"]


class Family(str, Enum):
    """Proposals that can be fitted."""

    auto = "auto"
    tli = "tli"
    respelled = "respelled"
    rdk_exact = "rdk-exact"
    rdk_first_order = "rdk-first-order"
    sparse_kernel = "sparse-kernel"
    cold_row = "cold-row"
    clusters = "clusters"
    learned = "learned"


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One fit.

    Attributes:
        traces: directories of `outlex trace`, of one pair.
        trimmed: directory of the draft head.
        settings: proposals and temperatures.
        limit: prompts of each directory; None takes all.
        output: directory of the artifact.
        machine: where the heads are loaded.
    """

    traces: tuple[Path, ...]
    trimmed: Path
    settings: TuneSettings
    limit: int | None
    output: Path
    machine: Machine


def fit(
    traces: Annotated[
        list[Path], typer.Option(help="Directory of `outlex trace`; may be given for several temperatures.")
    ],
    trimmed: Annotated[Path, typer.Option(help="Directory of `outlex trim`, or of an in-context head.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write: the same head, with its proposal.")
    ],
    proposal: Annotated[
        Family, typer.Option(help="What to try; auto tries all. TLI is always among what is compared.")
    ] = Family.auto,
    temperature: Annotated[
        list[float] | None,
        typer.Option("--temperature", help="May be given several times. Default: those of the traces."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use so many prompts of each traces, evenly spaced.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split of the prompts.")] = 0,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Find how a trimmed drafter should draw its tokens: TLI, or a proposal that restores tokens it lacks.

    Needs the traces and the two LM heads, not the models. Proposals are fitted to half of the prompts; how much of each
    is mixed with TLI, and which is taken, is decided on others; the table is from a third part. Only what is surely
    better than TLI is taken, and decoding stays lossless whatever is.

    \b
    Example:
      outlex trace --target qwen15 --drafter qwen05 --prompts prompts.jsonl -o traces
      outlex fit --traces traces --trimmed qwen05-4k --proposal auto -o qwen05-4k-fitted
      outlex generate --target qwen15 --trimmed qwen05-4k-fitted -p "Hello" --temperature 1
    """
    from outlex.tuning import TuneSettings

    config = FitConfig(
        traces=tuple(traces),
        trimmed=trimmed,
        settings=TuneSettings(
            family=proposal.value, temperatures=None if not temperature else tuple(temperature), seed=seed
        ),
        limit=limit,
        output=output,
        machine=Machine(device=device, threads=threads),
    )
    found = _run(config)
    if as_json:
        emit_json(_report(config, found))
        return
    from outlex.tuning.table import renderable

    console = stdout_console()
    console.print(renderable(found))
    console.print(f"\nwritten to {config.output}. Try it:", markup=False, soft_wrap=True)
    console.print(f"  {_report(config, found)['next']}", markup=False, soft_wrap=True)


def _run(config: FitConfig) -> Tuned:
    from outlex.artifact import check_destination, read_manifest
    from outlex.calibration.head_files import load_heads, load_tokenizer_facts, load_translation
    from outlex.calibration.traces import TraceSet
    from outlex.drafters import load_draft_head
    from outlex.models.options import use_threads
    from outlex.tuning import tune
    from outlex.vocab.tokenizer_facts import piece_bytes

    use_threads(config.machine.n_threads)
    # what is quick and may end in an error comes first
    artifact = load_draft_head(config.trimmed)
    check_destination(config.output, kind=read_manifest(config.trimmed).kind)
    sets = [limited(TraceSet.load(path), config.limit) for path in config.traces]
    header = sets[0].header
    translation = load_translation(header, device=config.machine.device)
    facts = load_tokenizer_facts(header.drafter if translation is None else header.target)
    say("loading the two LM heads ...", style="dim")
    target_head, drafter_head = load_heads(header, device=config.machine.device)
    with Ticker() as ticker:
        found = tune(
            sets,
            artifact,
            target_head=target_head,
            drafter_head=drafter_head,
            translation=translation,
            settings=config.settings,
            spellings=piece_bytes(facts),
            on_progress=ticker.of_total,
        )
    found.artifact.save(config.output)
    return found


def limited(traces: TraceSet, limit: int | None) -> TraceSet:
    """Evenly spaced prompts; None takes all."""
    n = len(traces.prompts)
    return traces if limit is None or limit >= n else traces.select(i * n // limit for i in range(limit))


def _report(config: FitConfig, found: Tuned) -> dict[str, Any]:
    return {
        "output": str(config.output),
        "head": found.artifact.describe(),
        "chosen": found.comparison.chosen.label,
        "reason": found.comparison.reason,
        "prompts": found.n_prompts,
        "trials": [trial.to_json() for trial in found.comparison.trials],
        "next": copyable(
            [
                *("bench", "--target", "TARGET", "--drafter", found.artifact.base_name),
                *("--trimmed", str(config.output), "--prompts", "PROMPTS", "--temperature", "1", "-o", "result.json"),
            ]
        ),
    }
