"""`outlex bench`: compare methods on the same prompts, in one process."""

from __future__ import annotations

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
from outlex.cli.output import emit_json, say, stdout_console
from outlex.cli.progress import Ticker
from outlex.cli.results import bench_json
from outlex.cli.sampling_options import SAMPLING_PANEL, MinPOption, TopKOption, TopPOption

if TYPE_CHECKING:
    from outlex.bench import BenchConfig, BenchResult

__all__ = ["bench"]


def bench(
    target: Annotated[str, typer.Option("--target", help=f"The target: {MODEL_HELP}.")],
    prompts: Annotated[
        Path,
        typer.Option("--prompts", help="JSON lines with 'prompt' or 'messages', and 'id' and 'domain' if you like."),
    ],
    drafter: Annotated[
        str | None,
        typer.Option("--drafter", help="A smaller model with the same tokenizer, or an EAGLE directory."),
    ] = None,
    cross_tokenizer: CrossTokenizerOption = False,
    trimmed: Annotated[
        list[Path] | None,
        typer.Option("--trimmed", help="Directory of `outlex trim`; several are several methods."),
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            "--baselines",
            help="With commas between: ar, untrimmed (our loop), transformers, transformers-ar, transformers-lookup,"
            " transformers-early-exit (its generate).",
        ),
    ] = "ar,untrimmed,transformers",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Use this many prompts, taken from all domains in turn."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="JSON file to write; until it is complete, OUTPUT.partial has what is done.",
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take prompts as they are, without the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens a prompt, at most.")] = 64,
    ignore_stop: Annotated[
        bool, typer.Option("--ignore-stop", help="Go on after stop tokens: every run has the same length.")
    ] = False,
    draft_len: Annotated[int, typer.Option("--draft-len", min=1, help="Tokens drafted before each target pass.")] = 4,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of each prompt, temperature and method.")] = 1,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            help="Requests that share forward passes: acceptance much sooner, and no speed.",
        ),
    ] = 1,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature",
            help="May be given several times. Default: 0 (greedy) and 1.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", help="Of the first run; the others follow.", rich_help_panel=SAMPLING_PANEL)
    ] = 0,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Measure speed and acceptance of several methods on the same prompts.

    All methods take turns on each prompt. The table is made from the JSON file: `outlex inspect FILE` shows
    it again.

    \b
    Example:
      outlex bench --target qwen15 --drafter qwen05 --trimmed qwen05-16k \\
        --prompts prompts.jsonl --limit 12 --temperature 0 --temperature 1 \\
        -o result.json
    """
    from outlex.bench import BenchConfig

    machine = Machine(dtype=dtype, device=device, threads=threads)
    config = BenchConfig(
        target=target,
        drafter=drafter,
        trimmed=tuple(str(path) for path in trimmed or ()),
        cross_tokenizer=cross_tokenizer,
        prompts=prompts,
        n_prompts=limit,
        raw=raw,
        max_new_tokens=max_new_tokens,
        ignore_stop_ids=ignore_stop,
        draft_len=draft_len,
        baselines=tuple(name.strip() for name in baselines.split(",") if name.strip()),
        temperatures=tuple(temperature or (0.0, 1.0)),
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeats=repeats,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        device=device,
        threads=machine.n_threads,
        output=output,
    )
    machine.warn_if_busy()
    result = _run(config)
    if as_json:
        emit_json(bench_json(result))
    else:
        from outlex.bench.table import renderable

        stdout_console().print(renderable(result))
    if output is not None:
        say(f"written to {output}", style="dim")


def _run(config: BenchConfig) -> BenchResult:
    from outlex.bench import run_bench

    say(f"loading models, {config.threads} threads ...", style="dim")
    with Ticker() as ticker:
        try:
            return run_bench(config, on_progress=ticker.of_total)
        except KeyboardInterrupt:
            partial = Path(f"{config.output}.partial")
            if config.output is not None and partial.exists():
                say(f"\nthe prompts that were finished are in {partial}: outlex inspect {partial}")
            raise
