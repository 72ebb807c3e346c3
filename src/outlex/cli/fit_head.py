"""`outlex fit-head`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.options import DeviceOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import copyable, emit_json, print_facts, say, stdout_console
from outlex.cli.progress import Ticker

if TYPE_CHECKING:
    from outlex.forecast.fitting import FitSettings, FittedChoice

__all__ = ["fit_head"]


class MethodName(str, Enum):
    """Kinds of heads."""

    preview = "preview"
    in_context = "in-context"
    both = "both"


@dataclass(frozen=True, kw_only=True)
class FitHeadConfig:
    """One fit.

    Attributes:
        traces: directories of `outlex trace`, of one pair.
        settings: method and budget.
        output: directory of the artifact.
        machine: where the heads are loaded.
    """

    traces: tuple[Path, ...]
    settings: FitSettings
    output: Path
    machine: Machine


def fit_head(
    traces: Annotated[
        list[Path], typer.Option(help="Directory of `outlex trace`; may be given for several temperatures.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write; an artifact in it is replaced as a whole.")
    ],
    method: Annotated[
        MethodName,
        typer.Option(
            help="preview: low-rank scores of all tokens choose a shortlist that is scored exactly; in-context: a"
            " static list that the request's tokens join; both: the request's tokens join the preview's shortlist."
        ),
    ] = MethodName.preview,
    budget: Annotated[
        float, typer.Option(help="Bytes a step may read, as a share of those of the drafter's head.")
    ] = 0.05,
    latency: Annotated[
        float | None,
        typer.Option(help="Time a step may take, as a share of the whole head's; both are measured here."),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the traced prompts that heads are compared on, and not fitted to.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="Of the choice of these prompts.")] = 0,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Fit a cheaper head to a drafter, without training: the best one that a budget buys.

    Needs the traces and the two LM heads, not the models. Several heads within the budget are fitted to one part of the
    prompts and compared on the other; the best one is then fitted to all of them.

    \b
    Example:
      outlex trace --target qwen15 --drafter qwen05 --prompts prompts.jsonl -o traces
      outlex fit-head --traces traces --method preview --budget 0.05 -o qwen05-preview
      outlex bench --target qwen15 --drafter qwen05 --trimmed qwen05-preview --prompts prompts.jsonl -o result.json
    """
    from outlex.forecast.fitting import FitSettings

    config = FitHeadConfig(
        traces=tuple(traces),
        settings=FitSettings(method=method.value, budget=budget, max_latency=latency, held_out=held_out, seed=seed),
        output=output,
        machine=Machine(device=device, threads=threads),
    )
    choice = _run(config)
    report = _report(config, choice)
    if as_json:
        emit_json(report)
    else:
        _print(report)


def _run(config: FitHeadConfig) -> FittedChoice:
    from outlex.artifact import check_destination
    from outlex.calibration.head_files import load_heads, load_tokenizer_facts
    from outlex.calibration.traces import TraceSet
    from outlex.drafters.fitted import KIND
    from outlex.forecast.fitting import fit_head as fit
    from outlex.models.options import use_threads

    use_threads(config.machine.n_threads)
    # what is quick and may end in an error comes first
    check_destination(config.output, kind=KIND)
    sets = [TraceSet.load(path) for path in config.traces]
    header = sets[0].header
    say("loading the two LM heads ...", style="dim")
    target_head, drafter_head = load_heads(header, device=config.machine.device)
    if config.settings.max_latency is not None:
        config.machine.warn_if_busy()
    with Ticker() as ticker:
        choice = fit(
            sets,
            target_head=target_head,
            drafter_head=drafter_head,
            facts=load_tokenizer_facts(header.drafter),
            settings=config.settings,
            on_progress=ticker.of_total,
        )
    choice.head.save(config.output)
    return choice


def _report(config: FitHeadConfig, choice: FittedChoice) -> dict[str, Any]:
    head = choice.head
    return {
        "output": str(config.output),
        "name": head.name,
        "head": head.describe(),
        "budget": config.settings.budget,
        "trials": [trial.to_json() for trial in choice.trials],
        "next": copyable(
            [
                *("bench", "--target", "TARGET", "--drafter", head.base_name),
                *("--trimmed", str(config.output), "--prompts", "PROMPTS", "-o", "result.json"),
            ]
        ),
    }


def _print(report: dict[str, Any]) -> None:
    console = stdout_console()
    head, best = report["head"], report["trials"][0]
    acceptance = ", ".join(f"T = {t}: {own:.4f} of {whole:.4f}" for t, (own, whole) in best["acceptance"].items())
    facts = {
        "head": f"{report['name']} for {head['base']}",
        "bytes a step": f"{best['head_bytes']:.2%} of the whole head's, with a budget of {report['budget']:.2%}",
        "acceptance": f"{best['kept']:.2%} of the whole head's on prompts it was not fitted to ({acceptance})",
        "fitted to": f"{head['provenance']['positions']:,} positions of {head['provenance']['prompts']} prompts",
        "written to": report["output"],
    }
    if best["latency"] is not None:
        facts["time a step"] = f"{best['latency']:.1%} of the whole head's"
    if len(report["trials"]) > 1:
        facts["also tried"] = ", ".join(
            f"{trial['name']} {trial['head_bytes']:.2%}: {trial['kept']:.2%}" for trial in report["trials"][1:]
        )
    print_facts(console, facts)
    console.print("\nTry it:", style="bold")
    console.print(f"  {report['next']}", markup=False, soft_wrap=True)
