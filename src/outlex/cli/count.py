"""`outlex count`: how often each token occurs in a corpus, as the model's tokenizer and chat template have it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from outlex.cli.options import MODEL_HELP, JsonOption
from outlex.cli.output import copyable, emit_json, human_bytes, human_duration, print_facts, say, stdout_console
from outlex.cli.progress import Ticker
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.calibration.corpus import Format
    from outlex.calibration.count import CountConfig, CountNews, CountResult

__all__ = ["count", "parse_weights"]

_PANEL = "Where it runs"


class FormatName(str, Enum):
    """What the files hold."""

    auto = "auto"
    jsonl = "jsonl"
    parquet = "parquet"
    text = "text"


class Chats(str, Enum):
    """What of a chat is counted."""

    template = "template"
    content = "content"


class OnError(str, Enum):
    """What a record that cannot be used does."""

    stop = "stop"
    skip = "skip"


class Backend(str, Enum):
    """Who counts."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True, kw_only=True)
class CountRequest:
    """One count.

    Attributes:
        config: what to count.
        tokenizer: model whose tokenizer counts.
        output: the file to write.
        overwrite: replace it, and start anew if a count is unfinished.
    """

    config: CountConfig
    tokenizer: str
    output: Path
    overwrite: bool


def count(
    corpus: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, patterns in quotes, or hub:OWNER/NAME:SPLIT; DOMAIN=PATH names the domain.",
            metavar="CORPUS",
        ),
    ],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help=f"The target: {MODEL_HELP}; only its tokenizer is used.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as stats.safetensors.")],
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", help="DOMAIN=W: what its counts are worth in a ranking; may be given several times."),
    ] = None,
    format: Annotated[
        FormatName, typer.Option("--format", help="What the files hold, if their names do not tell.")
    ] = FormatName.auto,
    text_field: Annotated[
        str | None,
        typer.Option("--text-field", help="Field with the text. Default: messages, else text, else prompt."),
    ] = None,
    domain_field: Annotated[
        str, typer.Option("--domain-field", help="Field with the domain, for sources without DOMAIN=.")
    ] = "domain",
    chats: Annotated[
        Chats,
        typer.Option(
            "--chats",
            help="template: what the model has to emit by its chat template. content: the answers' text alone.",
        ),
    ] = Chats.template,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="At a record or file that cannot be used: stop, or skip and count it.")
    ] = OnError.stop,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output, and do not go on from an unfinished count.")
    ] = False,
    as_json: JsonOption = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes. Default: one a core.", rich_help_panel=_PANEL),
    ] = None,
    backend: Annotated[
        Backend, typer.Option("--backend", help="local, or ray for a cluster.", rich_help_panel=_PANEL)
    ] = Backend.local,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", help="Of the cluster. Default: RAY_ADDRESS, or a new one here.", rich_help_panel=_PANEL
        ),
    ] = None,
) -> None:
    """Count the tokens of a corpus, apart for each domain.

    Reads JSON lines, Parquet and plain text, also packed (.gz, .bz2, .xz, .zst). Of chats only what the assistant has
    to emit is counted, end-of-turn token included. A text file is one document. Memory stays the same however large
    the corpus is. If a count is cut off, the same command again goes on where it stopped.

    \b
    Example:
      outlex count chats.jsonl code='src/**/*.md' --tokenizer qwen15 --weight code=0.5 -o stats.safetensors
      outlex count 'web/*.jsonl.zst' --tokenizer qwen15 --on-error skip -o web.safetensors
    """
    from outlex.calibration.count import CountConfig

    request = CountRequest(
        config=CountConfig(
            sources=tuple(corpus),
            weights=parse_weights(weight or []),
            format=None if format is FormatName.auto else cast("Format", format.value),
            text_field=text_field,
            domain_field=domain_field,
            chats=chats.value,
            on_error=on_error.value,
            workers=workers,
            backend=backend.value,
            ray_address=ray_address,
        ),
        tokenizer=tokenizer,
        output=output,
        overwrite=overwrite,
    )
    result = _run(request)
    if as_json:
        emit_json(result)
    else:
        _print(result)


def parse_weights(given: list[str]) -> dict[str, float]:
    """Take ``DOMAIN=W`` apart.

    Raises:
        InputError: not of this form, or a domain twice.
    """
    weights: dict[str, float] = {}
    for text in given:
        match = re.fullmatch(r"(.+)=(\d+\.?\d*(?:[eE]-?\d+)?|\.\d+)", text)
        if match is None or match[1] in weights:
            raise InputError(
                "--weight cannot be used",
                got=repr(text),
                expected="DOMAIN=W, W a number of at least 0, each domain once",
                next_step="write for example --weight code=0.5",
            )
        weights[match[1]] = float(match[2])
    return weights


def _run(request: CountRequest) -> dict[str, Any]:
    from outlex.calibration.count import count_corpus

    checkpoint = request.output.with_name(f"{request.output.name}.partial")
    _check_output(request, checkpoint)
    tokenizer = _tokenizer(request.tokenizer)
    with Ticker() as ticker:
        result = count_corpus(
            request.config, tokenizer, checkpoint=checkpoint, on_news=lambda news: _tell(ticker, news)
        )
    result.stats.save(request.output)
    checkpoint.unlink(missing_ok=True)
    for name in sorted(set(request.config.weights) - set(result.stats.domains)):
        say(f"--weight {name}: no record is of this domain", style="yellow")
    return _report(request, result)


def _check_output(request: CountRequest, checkpoint: Path) -> None:
    if request.output.is_dir():
        raise InputError(
            "The output is a folder", got=request.output, expected="a file", next_step="name a file in it with -o"
        )
    if request.output.exists() and not request.overwrite:
        raise InputError(
            "The output exists already",
            got=request.output,
            next_step="choose another file with -o, or pass --overwrite to replace it",
        )
    if checkpoint.exists():
        if request.overwrite:
            checkpoint.unlink()
        else:
            say(f"going on from {checkpoint}", style="dim")


def _tokenizer(source: str) -> Any:
    from outlex.models.tokenizer import load_tokenizer

    return load_tokenizer(source)


def _tell(ticker: Ticker, news: CountNews) -> None:
    speed = (
        f"{human_bytes(news.n_bytes / news.elapsed_s)}/s, {news.n_new_tokens / news.elapsed_s:,.0f} tokens/s"
        if news.elapsed_s > 0
        else ""
    )
    ticker.of_bytes(news.done_bytes, news.total_bytes, f"{news.n_tokens:,} tokens, {speed}", elapsed_s=news.elapsed_s)


def _report(request: CountRequest, result: CountResult) -> dict[str, Any]:
    stats = result.stats
    domains = {
        name: {
            "n_tokens": n_tokens,
            "n_documents": n_documents,
            "n_different": int((counts > 0).sum()),
            "weight": weight,
        }
        for name, n_tokens, n_documents, counts, weight in zip(
            stats.domains, stats.n_tokens, stats.n_documents, stats.counts, stats.weights, strict=True
        )
    }
    return {
        "output": str(request.output),
        "tokenizer": request.tokenizer,
        "tokenizer_fingerprint": stats.tokenizer_fingerprint,
        "n_entries": stats.n_entries,
        "n_tokens": sum(stats.n_tokens),
        "n_different": int((stats.counts.sum(dim=0) > 0).sum()),
        "n_documents": sum(stats.n_documents),
        "domains": domains,
        "n_skipped": sum(result.n_faults.values()),
        "skipped": result.n_faults,
        "skipped_examples": list(result.faults),
        "n_cut": result.n_cut,
        "text_bytes": result.n_bytes,
        "elapsed_s": result.elapsed_s,
        "was_resumed": result.was_resumed,
        "next": copyable(["trim", "DRAFTER", "--tokens", str(request.output), "--size", "16384", "-o", "trimmed-16k"]),
    }


def _print(result: dict[str, Any]) -> None:
    console = stdout_console()
    print_facts(
        console,
        {
            "statistics": result["output"],
            "counted": f"{result['n_tokens']:,} tokens in {result['n_documents']:,} documents"
            f" ({human_bytes(result['text_bytes'])} of text)",
            "seen": f"{result['n_different']:,} of {result['n_entries']:,} tokens at least once",
            "took": human_duration(result["elapsed_s"])
            + (" (the rest of an earlier run)" if result["was_resumed"] else ""),
            **{
                f"domain {name}": f"{domain['n_tokens']:,} tokens, {domain['n_documents']:,} documents,"
                f" weight {domain['weight']:g}"
                for name, domain in result["domains"].items()
            },
        },
    )
    if result["n_cut"]:
        console.print(f"{result['n_cut']:,} very long records were encoded in pieces")
    if result["n_skipped"]:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in result["skipped"].items())
        say(f"left out: {reasons}", style="yellow")
        for example in result["skipped_examples"]:
            say(f"  {example}", style="dim")
    console.print("\nUse it:", style="bold")
    console.print(f"  {result['next']}", markup=False, soft_wrap=True)
