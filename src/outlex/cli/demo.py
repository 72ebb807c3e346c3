"""`outlex demo`: the main job from nothing, on a real pair."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.options import DeviceOption, DtypeOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import copyable, emit_json, human_duration, print_facts, say, stdout_console
from outlex.cli.progress import Ticker
from outlex.cli.results import bench_json

if TYPE_CHECKING:
    from outlex.bench import BenchResult
    from outlex.decode import Generation
    from outlex.demo import DemoConfig, DemoResult

__all__ = ["demo"]

_QUICK = 4  # a quick look takes such a part of the time and of the tokens


class Pair(str, Enum):
    """Names of `outlex.demo.PAIRS`, known here without loading torch."""

    smol = "smol"
    qwen = "qwen"


def demo(
    pair: Annotated[
        Pair,
        typer.Option(
            "--pair",
            help="smol: SmolLM2-135M, 98 MB to fetch, with an EAGLE-3 drafter of one layer that outlex brings: the"
            " head is most of its draft step. qwen: Qwen2.5-Coder 1.5B with its 0.5B sibling as drafter, 1.6 GB.",
        ),
    ] = Pair.smol,
    drafter: Annotated[
        Path | None,
        typer.Option("--drafter", help="Directory of an EAGLE drafter for the pair's target, such as your own."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A quarter of the time, and of the tokens a prompt: numbers will be rough."),
    ] = False,
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget-s", help="Seconds of decoding; prompts are added while they fit. Default: 75 (smol), 240 (qwen)."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Rows of the trimmed head. Default: 8,192 (smol), 16,384 (qwen).")
    ] = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Decode a few prompts with a real pair, with whole and with small draft heads, and compare.

    Fetches the models once. Methods take turns on every prompt, greedy and at temperature 1: the target alone, with the
    drafter's whole head, with smaller heads, and transformers' own ways to draft. Writes a page with the figures and a
    text token by token.

    \b
    Example:
      outlex demo
      outlex demo --pair qwen --quick
    """
    from outlex.demo import PAIRS, DemoConfig, run_demo

    machine = Machine(dtype=dtype, device=device, threads=threads)
    known = PAIRS[pair.value].with_drafter(drafter)
    config = DemoConfig(**vars(known), dtype=dtype, device=device, threads=machine.n_threads)
    if quick:
        config = replace(
            config, budget_s=config.budget_s / _QUICK, max_new_tokens=max(16, config.max_new_tokens // _QUICK)
        )
    if budget_s is not None or size is not None:
        config = replace(
            config,
            budget_s=config.budget_s if budget_s is None else budget_s,
            size=config.size if size is None else size,
        )
    say(f"{machine.n_threads} threads; decoding stops after about {config.budget_s:.0f} s", style="dim")
    machine.warn_if_busy()
    with Ticker() as ticker:
        result = run_demo(config, on_note=say, on_elapsed=ticker.of_time)
    say("decoding one prompt once more, to show where each token came from", style="dim")
    generation, page = _show_text(config, machine, result)
    commands = _next_commands(result, config.target, config.drafter)
    if as_json:
        emit_json({**_as_json(result, commands), "page": str(page)})
    else:
        _print(result, commands, page)
        _print_text(result, generation)


def _show_text(config: DemoConfig, machine: Machine, result: DemoResult) -> tuple[Generation, Path]:
    """One text with what each token was decided by, and the page with it and the measurement."""
    from outlex.cli.generation import decode_with, save_trace
    from outlex.cli.request import Request
    from outlex.demo.prompts import PROMPTS
    from outlex.report import write_report
    from outlex.sampling import SamplingParams

    results = result.result.parent
    trace, page = results / "text.json", results.parent / "report.html"
    request = Request(
        target=config.target,
        drafter=config.drafter,
        trimmed=result.fitted or result.trimmed,
        cross_tokenizer=False,
        text=PROMPTS[0][1],
        system=None,
        raw=False,
        max_new_tokens=config.max_new_tokens,
        params=SamplingParams(temperature=0.0),
        stop=(),
        seed=0,
        draft_len=config.draft_len,
        proposal=None,
        machine=machine,
        trace=trace,
    )
    generation, value = decode_with(result.decoder, request)
    save_trace(trace, value)
    write_report(results, page, title="outlex demo")
    return generation, page


def _print_text(result: DemoResult, generation: Generation) -> None:
    from outlex.cli.generation import print_blocks

    print_blocks(result.decoder.loaded, generation)


def _next_commands(result: DemoResult, target: str, drafter: str) -> dict[str, str]:
    # twice the rows, where that still leaves out a good part of the vocabulary
    n_other = result.n_draft * 2 if result.n_draft * 3 < result.n_full else result.n_draft // 2
    best, other = str(result.fitted or result.trimmed), f"{Path(drafter).name}-{n_other}"
    pair = ["--target", target, "--drafter", drafter]
    return {
        "see which tokens were drafted": copyable(
            ["generate", *pair, "--trimmed", best, "--show-blocks", "-p", "Write a haiku about words."]
        ),
        "trim to another size": copyable(
            ["trim", drafter, "--target", target, "--tokens", str(result.ranking), "--size", str(n_other), "-o", other]
        ),
        "compare the two, with more prompts and tokens": copyable(
            [
                *("bench", *pair, "--baselines", "ar,untrimmed", "--trimmed", best, "--trimmed", other),
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
        "fitted": None if result.fitted is None else str(result.fitted),
        "ranking": str(result.ranking),
        "prompts": str(result.prompts),
        "bench": bench_json(result.bench),
        "next": commands,
    }


def _in_short(bench: BenchResult) -> dict[str, str]:
    """The speed of the small heads at each temperature, and whether greedy text stayed the same."""
    from outlex.bench.config import BASELINES

    facts = {}
    for summary in bench.summary:
        alone, whole = summary.speedup_over("ar"), summary.speedup_over("untrimmed")
        if alone is not None and whole is not None and summary.method not in BASELINES:
            facts[f"{summary.method}, T = {summary.temperature:g}"] = (
                f"{summary.tokens_per_s:.2f} tokens/s: {alone.totals:.2f} × the target alone,"
                f" {whole.totals:.2f} × the drafter's whole head"
            )
    same = [
        f"{summary.method} {summary.n_same_as_ar} of {summary.n_runs}"
        for summary in bench.summary
        if summary.n_same_as_ar is not None and summary.method != "ar"
    ]
    facts["same text, T = 0"] = f"prompts with the target's own tokens, one for one: {', '.join(same)}"
    return facts


def _print(result: DemoResult, commands: dict[str, str], page: Path) -> None:
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
            "page": f"{page} (figures, and a text token by token; open it in a browser)",
            "result": f"{result.result} (outlex inspect shows it again)",
        },
    )
    console.print("\nWhat to try next", style="bold")
    for purpose, command in commands.items():
        console.print(f"  # {purpose}", style="dim", markup=False, soft_wrap=True)
        console.print(f"  {command}", markup=False, soft_wrap=True)
