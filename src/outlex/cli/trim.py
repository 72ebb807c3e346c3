"""`outlex trim`: choose the draft vocabulary, cut its LM-head rows out of a drafter, write the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlex.cli.options import MODEL_HELP, DeviceOption, DtypeOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import emit_json
from outlex.cli.request import ProposalName
from outlex.cli.trim_config import Objective, RankName, SearchName, TrimConfig, parse_size

__all__ = ["trim"]

_PANEL = "With --size auto"
_SPEED_PANEL = "With --size auto --objective speed"


def trim(
    drafter: Annotated[str, typer.Argument(help=f"The drafter: {MODEL_HELP}.")],
    tokens: Annotated[
        list[Path],
        typer.Option(
            "--tokens",
            help="Which tokens are needed most; may be given several times, and the counts are added up. Statistics of"
            " 'outlex count', a directory of 'outlex trace' (then by the target's mean probability), a JSON object of"
            " counts by id, lines 'id TAB count', a safetensors file with 'counts'; or, alone and with a fixed size,"
            " a JSON list of ids, lines 'id', or a sub-vocabulary directory.",
        ),
    ],
    size: Annotated[str, typer.Option("--size", help="Rows to keep, or 'auto': the best trade of coverage and cost.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Directory to write; an artifact in it is replaced as a whole."),
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", help="The model it will draft for: checks the tokenizers, takes its width."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="A token or token id that must stay; may be given several times."),
    ] = None,
    rank: Annotated[
        RankName,
        typer.Option(
            "--rank",
            help="What orders the tokens: mixture (counts, and the tokenizer's own order for what was seen little),"
            " counts alone, or the variance of the target's probability (needs traces).",
        ),
    ] = RankName.mixture,
    report_on: Annotated[
        list[Path] | None,
        typer.Option(
            "--report-on", help="Sources of another split, as for --tokens: the coverage of these is reported as well."
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            help="Weight of coverage against cost, 0 to 1 (default 0.5; for speed 0).",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option("--min-coverage", help="Cover at least this share of the tokens.", rich_help_panel=_PANEL),
    ] = None,
    min_size: Annotated[
        int | None, typer.Option("--min-size", help="Keep at least so many rows.", rich_help_panel=_PANEL)
    ] = None,
    max_size: Annotated[
        int | None, typer.Option("--max-size", help="Keep at most so many rows.", rich_help_panel=_PANEL)
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(
            "--objective",
            help="What fewer rows save: flops (default) and bytes of a draft step, its latency, measured here, or time"
            " for a token by a forecast: then draft length and proposal are chosen too.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    search: Annotated[
        SearchName | None,
        typer.Option("--search", help="exact (default), or tpe as in the paper; needs Optuna.", rich_help_panel=_PANEL),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of --search tpe.", rich_help_panel=_PANEL)] = None,
    traces: Annotated[
        list[Path] | None,
        typer.Option(
            "--traces",
            help="Directory of 'outlex trace'; may be given for several temperatures. Half of its prompts choose, the"
            " other half is reported.",
            rich_help_panel=_SPEED_PANEL,
        ),
    ] = None,
    draft_len: Annotated[
        list[int] | None,
        typer.Option(
            "--draft-len",
            min=1,
            help="May be given several times: what to choose from. Default: 1 to 6, and 8.",
            rich_help_panel=_SPEED_PANEL,
        ),
    ] = None,
    proposal: Annotated[
        list[ProposalName] | None,
        typer.Option(
            "--proposal",
            help="May be given several times: what to choose from. Default: all.",
            rich_help_panel=_SPEED_PANEL,
        ),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option(
            "--bench",
            help="Result of 'outlex bench -o' on the machine to choose for. Default: times both models here.",
            rich_help_panel=_SPEED_PANEL,
        ),
    ] = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Trim a drafter's LM head to the tokens that matter.

    End, special, byte, digit and whitespace tokens always stay. The input embeddings are not touched, so the
    drafter still reads every token; it only proposes fewer.

    \b
    Example:
      outlex trim qwen05 --tokens counts.json --size 16384 -o qwen05-16k
      outlex trim qwen05 --tokens stats.safetensors --size auto --report-on held-out.safetensors -o qwen05-auto
      outlex trim qwen05 --tokens stats.safetensors --size auto --objective speed --traces traces -o qwen05-fast
    """
    from outlex.cli.trim_report import print_report
    from outlex.cli.trim_run import run_trim

    options = {
        "--alpha": alpha,
        "--min-coverage": min_coverage,
        "--min-size": min_size,
        "--max-size": max_size,
        "--objective": objective,
        "--search": search,
        "--seed": seed,
        "--traces": tuple(traces) if traces else None,
        "--draft-len": tuple(draft_len) if draft_len else None,
        "--proposal": tuple(proposal) if proposal else None,
        "--bench": bench,
    }
    config = TrimConfig(
        drafter=drafter,
        tokens=tuple(tokens),
        report_on=tuple(report_on or ()),
        rank=rank,
        size=parse_size(size, {name: value for name, value in options.items() if value is not None}),
        output=output,
        target=target,
        keep=tuple(keep or ()),
        machine=Machine(dtype=dtype, device=device, threads=threads),
    )
    result = run_trim(config)
    if as_json:
        emit_json(result)
    else:
        print_report(result)
