"""`outlex demo`: the main job from nothing, on a real pair."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.options import DeviceOption, DtypeOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import copyable, emit_json, human_duration, print_facts, say, stdout_console
from outlex.cli.progress import Ticker
from outlex.cli.results import bench_json

if TYPE_CHECKING:
    from outlex.bench import BenchResult
    from outlex.demo import DemoResult

__all__ = ["demo"]

_QUICK_BUDGET_S = 60.0
_QUICK_TOKENS = 16


class Pair(str, Enum):
    """Names of `outlex.demo.PAIRS`, known here without loading torch."""

    qwen = "qwen"
    smol = "smol"


def demo(
    pair: Annotated[
        Pair,
        typer.Option(
            "--pair",
            help="qwen: Qwen2.5-Coder 1.5B with its 0.5B sibling as drafter, 1.6 GB to fetch. smol: a model"
            " of 98 MB that drafts for itself; it shows that everything works, not a gain.",
        ),
    ] = Pair.qwen,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One minute of decoding, 16 tokens a prompt: numbers will be rough."),
    ] = False,
    budget_s: Annotated[
        float | None,
        typer.Option("--budget-s", help="Seconds of decoding; prompts are added while they fit. Default: 240."),
    ] = None,
    size: Annotated[int, typer.Option("--size", help="Rows of the trimmed head.")] = 16_384,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Decode a few prompts with a real pair, with and without a trimmed head, and compare.

    Fetches the models once. Four methods take turns on every prompt, greedy and at temperature 1: the target
    alone, with the whole drafter, with the trimmed drafter, and the assisted generation of transformers.

    \b
    Example:
      outlex demo
      outlex demo --pair smol --quick
    """
    from outlex.demo import PAIRS, DemoConfig, run_demo

    machine = Machine(dtype=dtype, device=device, threads=threads)
    target, drafter = PAIRS[pair.value]
    if budget_s is None:
        budget_s = _QUICK_BUDGET_S if quick else DemoConfig.budget_s
    config = DemoConfig(
        target=target,
        drafter=drafter,
        size=size,
        budget_s=budget_s,
        max_new_tokens=_QUICK_TOKENS if quick else DemoConfig.max_new_tokens,
        dtype=dtype,
        device=device,
        threads=machine.n_threads,
    )
    say(f"{machine.n_threads} threads; decoding stops after about {config.budget_s:.0f} s", style="dim")
    machine.warn_if_busy()
    with Ticker() as ticker:
        result = run_demo(config, on_note=say, on_elapsed=ticker.of_time)
    commands = _next_commands(result, target, drafter)
    if as_json:
        emit_json(_as_json(result, commands))
    else:
        _print(result, commands)


def _next_commands(result: DemoResult, target: str, drafter: str) -> dict[str, str]:
    # twice the rows, where that still leaves out a good part of the vocabulary
    n_other = result.n_draft * 2 if result.n_draft * 3 < result.n_full else result.n_draft // 2
    trimmed, other = str(result.trimmed), f"{drafter}-{n_other}"
    pair = ["--target", target, "--drafter", drafter]
    return {
        "see which tokens were drafted": copyable(
            ["generate", *pair, "--trimmed", trimmed, "--show-blocks", "-p", "Write a haiku about words."]
        ),
        "trim to another size": copyable(
            ["trim", drafter, "--tokens", str(result.ranking), "--size", str(n_other), "-o", other]
        ),
        "compare the two, with more prompts and tokens": copyable(
            [
                *("bench", *pair, "--trimmed", trimmed, "--trimmed", other),
                *("--prompts", str(result.prompts), "-o", "result.json"),
            ]
        ),
    }


def _as_json(result: DemoResult, commands: dict[str, str]) -> dict[str, Any]:
    return {
        "n_draft": result.n_draft,
        "n_full": result.n_full,
        "coverage": result.coverage,
        "seconds": result.seconds,
        "trimmed": str(result.trimmed),
        "ranking": str(result.ranking),
        "prompts": str(result.prompts),
        "bench": bench_json(result.bench),
        "next": commands,
    }


def _in_short(bench: BenchResult) -> dict[str, str]:
    """The trimmed drafter's speed at each temperature, and whether greedy text stayed the same."""
    facts = {}
    for summary in bench.summary:
        alone, whole = summary.speedup_over("ar"), summary.speedup_over("untrimmed")
        if alone is not None and whole is not None and summary.method.startswith("trimmed-"):
            facts[f"trimmed, T = {summary.temperature:g}"] = (
                f"{summary.tokens_per_s:.2f} tokens/s: {alone.totals:.2f} × the target alone,"
                f" {whole.totals:.2f} × the whole drafter"
            )
    same = [
        f"{summary.method} {summary.n_same_as_ar} of {summary.n_runs}"
        for summary in bench.summary
        if summary.n_same_as_ar is not None and summary.method != "ar"
    ]
    facts["same text, T = 0"] = f"prompts with the target's own tokens, one for one: {', '.join(same)}"
    return facts


def _print(result: DemoResult, commands: dict[str, str]) -> None:
    from outlex.bench.table import renderable

    console = stdout_console()
    console.print(renderable(result.bench))
    total = sum(result.seconds.values())
    parts = ", ".join(f"{name} {human_duration(seconds)}" for name, seconds in result.seconds.items())
    console.print()
    print_facts(
        console,
        {
            **_in_short(result.bench),
            "draft vocabulary": f"{result.n_draft:,} of {result.n_full:,} rows;"
            f" {result.coverage:.3f} of the tokens that the target wrote are in it",
            "time": f"{human_duration(total)} ({parts})",
            "result": f"{result.result} (outlex inspect shows it again)",
        },
    )
    console.print("\nWhat to try next", style="bold")
    for purpose, command in commands.items():
        console.print(f"  # {purpose}", style="dim", markup=False, soft_wrap=True)
        console.print(f"  {command}", markup=False, soft_wrap=True)
