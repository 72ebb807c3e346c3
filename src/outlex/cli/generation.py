"""The work of `outlex generate`: load, decode, and say what came of it."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from outlex.atomic import replace_file
from outlex.bench.environment import describe_environment, publishable
from outlex.cli.output import print_facts, say, stderr_console
from outlex.cli.request import Request, make_proposal
from outlex.decode import Generation, SpeculativeDecoder, Step
from outlex.decode.text import TextStream
from outlex.decode.token_trace import TokenTrace
from outlex.drafters import load_draft_head
from outlex.errors import ArtifactError
from outlex.formats.eagle_checkpoint import load_pair

if TYPE_CHECKING:
    from outlex.models import LanguageModel

__all__ = ["decode", "decode_with", "print_blocks", "print_statistics", "save_trace"]

_STYLES = {"accepted": "green", "recovered": "bold yellow", "bonus": "bold cyan"}


def decode(request: Request, *, stream: bool) -> tuple[SpeculativeDecoder, Generation, dict[str, Any]]:
    """Load the models and decode.

    Args:
        request: what was asked for.
        stream: write the text to stdout as it comes.

    Returns:
        The decoder, what came of it, and the same as JSON values.
    """
    decoder = _build(request)
    generation, value = decode_with(decoder, request, stream=stream)
    return decoder, generation, value


def decode_with(
    decoder: SpeculativeDecoder, request: Request, *, stream: bool = False
) -> tuple[Generation, dict[str, Any]]:
    """Decode with what is loaded already: what came of it, and the same as JSON values."""
    trace = None if request.trace is None else TokenTrace()
    prompt_ids = decoder.encode(request.prompt_for(decoder.loaded))
    steps: list[Step] = []
    for step in decoder.stream(
        prompt_ids,
        max_new_tokens=request.max_new_tokens,
        params=request.params,
        stop=request.stop,
        seed=request.seed,
        observer=trace,
    ):
        steps.append(step)
        if stream:
            sys.stdout.write(step.text)
            sys.stdout.flush()
    if stream:
        sys.stdout.write("\n")
        sys.stdout.flush()
    generation = Generation.from_steps(steps, n_prompt=len(prompt_ids))
    return generation, _as_json(request, decoder, generation, trace)


def _build(request: Request) -> SpeculativeDecoder:
    """Load what is needed; the cheap parts that can be wrong come first."""
    trimmed = None if request.trimmed is None else load_draft_head(request.trimmed)
    source = request.drafter
    if source is None and trimmed is not None:
        source = trimmed.base_source
    target, drafter = load_pair(request.target, source, load=request.machine.load)
    return SpeculativeDecoder(
        target,
        drafter,
        trimmed=trimmed,
        cross_tokenizer=request.cross_tokenizer,
        proposal=None if request.proposal is None else make_proposal(request.proposal),
        draft_len=request.draft_len,
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
        "head_s": time.head_s,
        "target_s": time.target_s,
        "other_s": time.other_s,
    }


def print_statistics(request: Request, generation: Generation) -> None:
    """How much, how fast, how well drafted; on stderr."""
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
    if not request.params.greedy:
        facts["seed"] = str(request.seed)
    say("")
    print_facts(stderr_console(), facts)


def save_trace(path: Path, value: dict[str, Any]) -> None:
    """Write the JSON of a traced generation; of the folders of this machine it names none.

    Raises:
        ArtifactError: the disk refuses.
    """
    shown = {**value, "target": publishable(value["target"])}  # texts and tokens may look like paths and are none
    try:
        replace_file(path, json.dumps(shown, allow_nan=False, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise ArtifactError(
            "The trace cannot be written",
            got=error,
            expected="a folder that can be written to, and room in it",
            next_step="choose another file with --trace",
        ) from error


def _as_json(
    request: Request, decoder: SpeculativeDecoder, generation: Generation, trace: TokenTrace | None
) -> dict[str, Any]:
    drafter = decoder.drafter
    return {
        "kind": "outlex-generation",
        "schema": 1,
        "prompt": request.text,
        "text": generation.text,
        "token_ids": generation.token_ids,
        "finish_reason": generation.finish_reason,
        "stats": {name: None if math.isnan(value) else value for name, value in _statistics(generation).items()},
        "target": decoder.loaded.source,
        "drafter": None if drafter is None else drafter.name,
        "head": None if drafter is None else drafter.head.name,
        "proposal": None if drafter is None else decoder.proposal.name,
        "draft_len": None if drafter is None else decoder.draft_len,
        "params": asdict(request.params),
        "seed": request.seed,
        "machine": request.machine.to_json(decoder.loaded),
        "environment": describe_environment(decoder.target.device),
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
        "tokens": None if trace is None else trace.to_json(generation.n_tokens, decode=decoder.loaded.decode),
    }


def print_blocks(model: LanguageModel, generation: Generation) -> None:
    """The output with each token in the colour of its origin; on stderr."""
    legend = "  ".join(f"[{style}]{kind}[/]" for kind, style in _STYLES.items())
    console = stderr_console()
    console.print(f"\n{legend}  [dim]| ends a block[/]")
    console.print(_coloured(model, generation))


def _coloured(model: LanguageModel, generation: Generation) -> Text:
    """The tokens in the colour of where they came from; a character of several tokens has the last one's."""
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
