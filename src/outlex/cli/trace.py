"""`outlex trace`: let the target answer prompts, and keep what forecasts and rankings are made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from outlex.cli.output import copyable, emit_json, human_bytes, print_facts, say, stdout_console
from outlex.cli.progress import Ticker
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.models import LanguageModel

__all__ = ["resumable", "show", "trace"]


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """One run.

    Attributes:
        target, drafter: what `load_model` loads them by.
        prompts: file of JSON lines, as `outlex bench` takes it.
        output: directory of the traces.
        n_prompts: use this many, spread over the domains; None uses all.
        responses_field: field of each line with the response; None lets the target sample.
        raw: take text prompts as they are, without chat template.
        max_new_tokens, temperature, seed, batch_size, cross_tokenizer: as `collect_traces` takes them.
        machine: where the models run.
    """

    target: str
    drafter: str
    prompts: Path
    output: Path
    n_prompts: int | None
    responses_field: str | None
    raw: bool
    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int
    cross_tokenizer: bool
    machine: Machine


def trace(
    target: Annotated[str, typer.Option("--target", help=f"The target: {MODEL_HELP}.")],
    drafter: Annotated[
        str, typer.Option("--drafter", help="A smaller model with the same tokenizer, or an EAGLE directory.")
    ],
    prompts: Annotated[
        Path,
        typer.Option("--prompts", help="JSON lines with 'prompt' or 'messages', and 'id' and 'domain' if you like."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write; traces that are in it are added to.")
    ],
    n_prompts: Annotated[
        int | None, typer.Option("--n-prompts", min=1, help="Use this many prompts, taken from all domains in turn.")
    ] = None,
    responses_field: Annotated[
        str | None,
        typer.Option("--responses-field", help="Field of each line that has the response; nothing is sampled then."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take prompts as they are, without the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens a response, at most.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Of sampling; 0 is greedy. Trace at the one you will decode at.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Each prompt's own seed follows from it and the id.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts sampled in one forward pass.")] = 8,
    cross_tokenizer: CrossTokenizerOption = False,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Trace a pair: the target answers prompts, and both models' final hidden states are kept.

    From them every law can be computed again, at any temperature and for any draft vocabulary: `outlex forecast`
    needs nothing else. A run that was stopped goes on with the same command; prompts can be added later.

    \b
    Example:
      outlex trace --target qwen15 --drafter qwen05 --prompts prompts.jsonl \\
        --n-prompts 48 -o traces
    """
    config = TraceConfig(
        target=target,
        drafter=drafter,
        prompts=prompts,
        output=output,
        n_prompts=n_prompts,
        responses_field=responses_field,
        raw=raw,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        cross_tokenizer=cross_tokenizer,
        machine=Machine(dtype=dtype, device=device, threads=threads),
    )
    traces = _run(config)
    show(traces, config.output, as_json=as_json)


def show(traces: TraceSet, output: Path, *, as_json: bool) -> None:
    """What was traced, and a command that it is good for."""
    report = _report_of(traces, output, following=_next_command(traces, output))
    if as_json:
        emit_json(report)
    else:
        _print_report(report)


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Who stops the run learns that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nwhat was finished is in {output}; the same command goes on from there")
        raise


def _run(config: TraceConfig) -> TraceSet:
    from outlex.bench.workload import encode_prompt, read_prompts
    from outlex.calibration.collect import TraceRequest, collect_traces
    from outlex.calibration.trace_files import find_header
    from outlex.formats.eagle_checkpoint import load_pair

    records = read_prompts(config.prompts, limit=config.n_prompts)
    field = config.responses_field
    responses = None if field is None else _read_responses(config.prompts, field)
    find_header(config.output)  # refuses a wrong place before anything is loaded
    target, drafter = load_pair(config.target, config.drafter, load=config.machine.load)
    assert drafter is not None
    requests = [
        TraceRequest(
            id=record.id,
            domain=record.domain,
            prompt_ids=tuple(encode_prompt(target, record, raw=config.raw)),
            response_ids=None if responses is None else _response_ids(target, responses[record.id]),
        )
        for record in records
    ]
    with Ticker() as ticker, resumable(config.output):
        return collect_traces(
            target,
            drafter,
            requests,
            config.output,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed,
            batch_size=config.batch_size,
            cross_tokenizer=config.cross_tokenizer,
            on_progress=ticker.of_total,
        )


def _read_responses(path: Path, field: str) -> dict[str, str]:
    """Responses by the prompts' ids; `read_prompts` has checked everything else about the file."""
    responses: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        values = json.loads(line)
        response = values.get(field)
        if not isinstance(response, str) or not response:
            raise InputError(
                f"{path.name}, line {number}: there is no response",
                got=f"{field!r}: {response!r:.60}; fields {sorted(values)}",
                expected=f"a field {field!r} with a text in every line",
                next_step="correct --responses-field, or leave it out and let the target sample",
            )
        responses[str(values.get("id", f"line-{number}"))] = response
    return responses


def _response_ids(target: LanguageModel, response: str) -> tuple[int, ...]:
    """The response as the target would have written it: its end token included."""
    ids = target.encode(response, add_special_tokens=False)
    end = target.tokenizer.eos_token_id
    return (*ids, end) if isinstance(end, int) and (not ids or ids[-1] != end) else tuple(ids)


def _report_of(traces: TraceSet, output: Path, *, following: list[str]) -> dict[str, Any]:
    """What was traced; `following` are the arguments of the command to try next."""
    domains: dict[str, dict[str, int]] = {
        name: {
            "n_prompts": sum(prompt.domain == name for prompt in traces.prompts),
            "n_positions": sum(prompt.n_positions for prompt in traces.prompts if prompt.domain == name),
        }
        for name in traces.domains
    }
    return {
        "output": str(output),
        "target": traces.header.target.name,
        "drafter": traces.header.drafter.name,
        "temperature": traces.temperature,
        "n_prompts": len(traces.prompts),
        "n_positions": len(traces),
        "n_ended": sum(prompt.finish_reason == "stop" for prompt in traces.prompts),
        "n_bytes": sum(shard.n_bytes for shard in traces.header.shards),
        "domains": domains,
        "next": copyable(following),
    }


def _next_command(traces: TraceSet, output: Path) -> list[str]:
    """A command that these traces are good for."""
    if traces.header.drafter_tokenizer is None:
        return ["forecast", "--traces", str(output), "--tokens", "RANKING", "--sizes", "4096,16384"]
    return ["experiment", "pruning", "--traces", str(output), "-o", "experiments"]


def _print_report(report: dict[str, Any]) -> None:
    """`_report_of` for people."""
    console = stdout_console()
    text = "given responses" if report["temperature"] is None else f"sampled at T = {report['temperature']:g}"
    domains = ", ".join(f"{name} {values['n_prompts']}" for name, values in report["domains"].items())
    print_facts(
        console,
        {
            "traces": report["output"],
            "pair": f"{report['target']}, drafter {report['drafter']}",
            "text": f"{text}; {report['n_ended']} of {report['n_prompts']} ended by themselves",
            "positions": f"{report['n_positions']:,}, {human_bytes(report['n_bytes'])}",
            "prompts": domains,
        },
    )
    console.print("\nTry it:", style="bold")
    console.print(f"  {report['next']}", markup=False, soft_wrap=True)
