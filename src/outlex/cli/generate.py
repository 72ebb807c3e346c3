"""`outlex generate`: decode one prompt, streaming, and say what it cost."""

from __future__ import annotations

import secrets
import sys
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.options import (
    MODEL_HELP,
    DeviceOption,
    DtypeOption,
    JsonOption,
    Machine,
    ThreadsOption,
)
from outlex.cli.output import emit_json, print_facts, say, stderr_console
from outlex.errors import InputError

if TYPE_CHECKING:
    from rich.text import Text

    from outlex.decode import Generation, SpeculativeDecoder
    from outlex.decode.decoder import Prompt
    from outlex.models import LanguageModel
    from outlex.sampling import SamplingParams

__all__ = ["generate"]

_SAMPLING = "How tokens are drawn"
_DRAFTING = "How tokens are drafted"


class ProposalName(str, Enum):
    """q ↦ q̃."""

    tli = "tli"
    vanilla = "vanilla"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """One request.

    Attributes:
        target, drafter: what `load_model` loads them by; without drafter it decodes autoregressively.
        trimmed: directory of a trimmed drafter.
        text: the prompt.
        system: system message.
        raw: take the text as it is, without chat template.
        params: temperature and filters.
        max_new_tokens, stop, seed: as `SpeculativeDecoder.stream` takes them.
        draft_len: γ.
        proposal: q ↦ q̃.
        machine: where the models run.

    Raises:
        InputError: an empty prompt, or options that contradict each other.
    """

    target: str
    drafter: str | None
    trimmed: Path | None
    text: str
    system: str | None
    raw: bool
    params: SamplingParams
    max_new_tokens: int
    stop: tuple[str, ...]
    seed: int
    draft_len: int
    proposal: ProposalName
    machine: Machine

    def __post_init__(self) -> None:
        if not self.text if self.raw else not self.text.strip():
            raise InputError(
                "The prompt is empty",
                got=repr(self.text),
                expected="some text",
                next_step="give it with -p TEXT, --prompt-file FILE, or -p - for stdin",
            )
        if self.raw and self.system is not None:
            raise InputError(
                "--raw and --system exclude each other",
                got=f"--system {self.system!r}",
                next_step="leave --raw out, or write the system text into the prompt",
            )
        if not all(self.stop):
            raise InputError("A stop string is empty", expected="--stop TEXT", next_step="leave it out")


def generate(
    target: Annotated[str, typer.Option("--target", help=f"The model whose text you want: {MODEL_HELP}.")],
    drafter: Annotated[
        str | None,
        typer.Option("--drafter", help="A smaller model with the same tokenizer. Without it: no drafting."),
    ] = None,
    trimmed: Annotated[
        Path | None,
        typer.Option(
            "--trimmed", help="Directory of `outlex trim`; alone, it also loads the drafter it names."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt; - reads it from stdin.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", help="A UTF-8 file with the prompt.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="A system message for the chat template.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the model's chat template.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest output.")] = 256,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="Text that ends the output; may be given several times."),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 is greedy.", rich_help_panel=_SAMPLING)
    ] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="0 is off.", rich_help_panel=_SAMPLING)] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="1 is off.", rich_help_panel=_SAMPLING)] = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", help="0 is off.", rich_help_panel=_SAMPLING)] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="1 is off.", rich_help_panel=_SAMPLING)
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Repeats a sampled output; drawn and shown if left out.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    draft_len: Annotated[
        int,
        typer.Option(
            "--draft-len", min=1, help="Tokens drafted before each target pass.", rich_help_panel=_DRAFTING
        ),
    ] = 4,
    proposal: Annotated[
        ProposalName,
        typer.Option("--proposal", help="How draft tokens are drawn.", rich_help_panel=_DRAFTING),
    ] = ProposalName.tli,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the text at the end, in one piece.")
    ] = False,
    show_blocks: Annotated[
        bool,
        typer.Option("--show-blocks", help="Show on stderr which tokens were accepted, recovered or bonus."),
    ] = False,
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

    config = GenerateConfig(
        target=target,
        drafter=drafter,
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
    )
    decoder = _build(config)
    generation = _decode(decoder, config, stream=not (no_stream or as_json))
    if as_json:
        emit_json(_as_json(config, decoder, generation))
    elif no_stream:
        sys.stdout.write(generation.text + ("" if generation.text.endswith("\n") else "\n"))
    if show_blocks:
        _print_blocks(decoder.loaded, generation)
    _print_statistics(config, generation)


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


def _build(config: GenerateConfig) -> SpeculativeDecoder:
    """Load what is needed; the cheap parts that can be wrong come first."""
    from outlex.decode import SpeculativeDecoder
    from outlex.drafters import TrimmedDrafter
    from outlex.proposals import Tli, Vanilla

    trimmed = None if config.trimmed is None else TrimmedDrafter.load(config.trimmed)
    source = config.drafter
    if source is None and trimmed is not None:
        source = trimmed.base_source
    target = config.machine.load(config.target)
    drafter = None if source is None else target if source == config.target else config.machine.load(source)
    return SpeculativeDecoder(
        target,
        drafter,
        trimmed=trimmed,
        proposal=Tli() if config.proposal is ProposalName.tli else Vanilla(),
        draft_len=config.draft_len,
    )


def _prompt_of(config: GenerateConfig, model: LanguageModel) -> Prompt:
    if config.raw or not model.tokenizer.chat_template:
        if config.system is not None:
            raise InputError(
                "--system needs a chat template",
                got=f"{model.name}, a base model",
                expected="an instruct or chat model",
                next_step="write the system text into the prompt",
            )
        return config.text
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    return [*system, {"role": "user", "content": config.text}]


def _decode(decoder: SpeculativeDecoder, config: GenerateConfig, *, stream: bool) -> Generation:
    from outlex.decode import Generation

    prompt_ids = decoder.encode(_prompt_of(config, decoder.loaded))
    steps = []
    for step in decoder.stream(
        prompt_ids,
        max_new_tokens=config.max_new_tokens,
        params=config.params,
        stop=config.stop,
        seed=config.seed,
    ):
        steps.append(step)
        if stream and step.text:
            sys.stdout.write(step.text)
            sys.stdout.flush()
    if stream:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return Generation(
        text="".join(step.text for step in steps),
        token_ids=tuple(i for step in steps for i in step.block.token_ids),
        finish_reason=str(steps[-1].finish_reason),
        n_prompt=len(prompt_ids),
        steps=tuple(steps),
    )


def _statistics(generation: Generation) -> dict[str, float | int]:
    time = generation.time
    return {
        "n_prompt": generation.n_prompt,
        "n_tokens": generation.n_tokens,
        "n_passes": len(generation.steps),
        "n_accepted": generation.n_accepted,
        "n_tested": generation.n_tested,
        "acceptance_rate": generation.acceptance_rate,
        "block_efficiency": generation.block_efficiency,
        "tokens_per_s": generation.n_tokens / time.wall_s,
        "first_pass_s": generation.steps[0].time.wall_s,
        "wall_s": time.wall_s,
        "draft_s": time.draft_s,
        "target_s": time.target_s,
        "other_s": time.other_s,
    }


def _print_statistics(config: GenerateConfig, generation: Generation) -> None:
    stats, wall = _statistics(generation), generation.time.wall_s
    ends = {"stop": "a stop token or string", "length": "--max-new-tokens", "context": "a full context"}
    facts = {
        "tokens": f"{generation.n_tokens} after a prompt of {generation.n_prompt}, ended by"
        f" {ends[generation.finish_reason]}",
        "speed": f"{stats['tokens_per_s']:.2f} tokens/s over {wall:.1f} s, prompt included"
        f" (first pass {stats['first_pass_s']:.1f} s)",
        "time": ", ".join(
            f"{name} {stats[f'{name}_s']:.2f} s ({stats[f'{name}_s'] / wall:.2f})"
            for name in ("target", "draft", "other")
        ),
    }
    if generation.n_tested:
        facts["acceptance_rate"] = (
            f"{generation.acceptance_rate:.3f} ({generation.n_accepted} of {generation.n_tested} tested drafts)"
        )
        facts["block_efficiency"] = (
            f"{generation.block_efficiency:.2f} tokens a target pass ({len(generation.steps)} passes)"
        )
    if not config.params.greedy:
        facts["seed"] = str(config.seed)
    say("")
    print_facts(stderr_console(), facts)


def _as_json(config: GenerateConfig, decoder: SpeculativeDecoder, generation: Generation) -> dict[str, Any]:
    drafter = decoder.drafter
    return {
        "text": generation.text,
        "token_ids": generation.token_ids,
        "finish_reason": generation.finish_reason,
        "stats": _statistics(generation),
        "target": decoder.loaded.source,
        "drafter": None if drafter is None else drafter.name,
        "head": None if drafter is None else drafter.head.name,
        "proposal": None if drafter is None else decoder.proposal.name,
        "draft_len": None if drafter is None else decoder.draft_len,
        "params": asdict(config.params),
        "seed": config.seed,
        "machine": config.machine.to_json(decoder.loaded),
        "steps": [
            {
                "text": step.text,
                "token_ids": step.block.token_ids,
                "draft_ids": step.block.draft_ids,
                "n_accepted": step.block.n_accepted,
                "n_tested": step.block.n_tested,
                "kind": step.block.kind,
                **asdict(step.time),
            }
            for step in generation.steps
        ],
    }


_STYLES = {"accepted": "green", "recovered": "bold yellow", "bonus": "bold cyan"}


def _print_blocks(model: LanguageModel, generation: Generation) -> None:
    legend = "  ".join(f"[{style}]{kind}[/]" for kind, style in _STYLES.items())
    console = stderr_console()
    console.print(f"\n{legend}  [dim]| ends a block[/]")
    console.print(_coloured(model, generation))


def _coloured(model: LanguageModel, generation: Generation) -> Text:
    """The tokens in the colour of where they came from; a character of several tokens has the last one's."""
    from rich.text import Text

    from outlex.decode.text import TextStream

    text, stream = Text(), TextStream(model.decode)
    for step in generation.steps:
        block = step.block
        last = len(block.token_ids) - 1
        for place, token_id in enumerate(block.token_ids):
            stream.push(token_id)
            text.append(stream.take(), style=_STYLES[block.kind if place == last else "accepted"])
        text.append("|", style="dim")
    text.append(stream.finish())
    return text
