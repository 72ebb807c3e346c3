"""`outlex generate`: decode one prompt, streaming, and say what it cost."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

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
from outlex.cli.output import emit_json
from outlex.cli.request import ProposalName, Request
from outlex.cli.sampling_options import SAMPLING_PANEL, MinPOption, RepetitionPenaltyOption, TopKOption, TopPOption
from outlex.errors import InputError

__all__ = ["generate"]

_DRAFTING = "How tokens are drafted"


def generate(
    target: Annotated[str, typer.Option("--target", help=f"The model whose text you want: {MODEL_HELP}.")],
    drafter: Annotated[
        str | None,
        typer.Option(
            "--drafter",
            help="A smaller model with the same tokenizer, or an EAGLE directory. Without it: no drafting.",
        ),
    ] = None,
    cross_tokenizer: CrossTokenizerOption = False,
    trimmed: Annotated[
        Path | None,
        typer.Option("--trimmed", help="Directory of `outlex trim`; alone, it also loads its base drafter."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; - reads it from stdin.")] = None,
    prompt_file: Annotated[Path | None, typer.Option("--prompt-file", help="A UTF-8 file with the prompt.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message for the chat template.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the model's chat template.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest output.")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Text that ends the output; can be given repeatedly.")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 is greedy.", rich_help_panel=SAMPLING_PANEL)
    ] = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionPenaltyOption = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Repeats a sampled output; drawn and shown if left out.", rich_help_panel=SAMPLING_PANEL
        ),
    ] = None,
    draft_len: Annotated[
        int,
        typer.Option("--draft-len", min=1, help="Tokens drafted before each target pass.", rich_help_panel=_DRAFTING),
    ] = 4,
    proposal: Annotated[
        ProposalName | None,
        typer.Option(
            "--proposal",
            help="How draft tokens are drawn. Default: as `outlex fit` found for --trimmed, else tli.",
            rich_help_panel=_DRAFTING,
        ),
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the text at the end, in one piece.")] = False,
    show_blocks: Annotated[
        bool,
        typer.Option("--show-blocks", help="Show on stderr which tokens were accepted, recovered or bonus."),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", help="Write p, q̃ and the alternatives of each token to this file, for `outlex report`."
        ),
    ] = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Generate text, with or without a drafter. The drafter changes the speed, never the law of the text.

    The prompt goes through the model's chat template if it has one. Greedy by default (temperature 0).

    \b
    Example:
      outlex generate --target qwen15 --drafter qwen05 -p "Write a haiku."
      outlex generate --target qwen15 --trimmed qwen05-16k \\
        --prompt-file question.txt --temperature 0.8 --seed 1
    """
    from outlex.sampling import SamplingParams

    request = Request(
        target=target,
        drafter=drafter,
        cross_tokenizer=cross_tokenizer,
        trimmed=trimmed,
        text=_read_prompt(prompt, prompt_file),
        system=system,
        raw=raw,
        params=SamplingParams(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
        ),
        max_new_tokens=max_new_tokens,
        stop=tuple(stop or ()),
        seed=secrets.randbits(31) if seed is None else seed,
        draft_len=draft_len,
        proposal=proposal,
        machine=Machine(dtype=dtype, device=device, threads=threads),
        trace=trace,
    )
    from outlex.cli.generation import decode, print_blocks, print_statistics, save_trace

    decoder, generation, value = decode(request, stream=not (no_stream or as_json))
    if trace is not None:
        save_trace(trace, value)
    if as_json:
        emit_json(value)
    elif no_stream:
        sys.stdout.write(generation.text + "\n")
    if show_blocks:
        print_blocks(decoder.loaded, generation)
    print_statistics(request, generation)


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if prompt is not None and prompt_file is None:
        return sys.stdin.read() if prompt == "-" else prompt
    if prompt is not None or prompt_file is None:
        raise InputError(
            "Give the prompt once",
            got="none" if prompt is None else "both -p and --prompt-file",
            expected="-p TEXT or --prompt-file FILE",
            next_step="-p - reads it from stdin",
        )
    try:
        return prompt_file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "The prompt file cannot be read",
            got=error,
            expected="a UTF-8 text file",
            next_step="check the path given as --prompt-file",
        ) from error
