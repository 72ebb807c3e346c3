"""`outlex export`: a trimmed or fitted drafter as a directory that an engine loads."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from outlex.cli.options import MODEL_HELP, JsonOption
from outlex.cli.output import emit_json, print_facts, say, stdout_console
from outlex.errors import InputError

__all__ = ["ExportName", "export"]


class ExportName(str, Enum):
    """What is written; the keys of `outlex.formats.exports.EXPORTS`."""

    vllm_plugin = "vllm-plugin"
    vllm_tli = "vllm-tli"
    hf = "hf"


def export(
    artifact: Annotated[
        Path, typer.Argument(metavar="DIR", help="What 'outlex trim', 'outlex fit-head' or 'outlex fit' wrote.")
    ],
    to: Annotated[ExportName, typer.Option("--to", help="Who loads it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
    drafter: Annotated[
        str | None,
        typer.Option("--drafter", help=f"The drafter it belongs to: {MODEL_HELP}. Default: the one it names."),
    ] = None,
    n_target: Annotated[
        int | None,
        typer.Option(
            "--n-target", min=1, help="vocab_size of the target, where it is another than the drafter's (padding)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a drafter with its small head as an engine loads it: weights, tokenizer, settings.

    The artifact is held against the drafter's weights before anything is written. Weights are linked where the file
    system allows it, else copied.

    \b
    Example:
      outlex export qwen05-16k --to vllm-plugin -o qwen05-16k-vllm
    """
    from outlex.formats.exporting import ExportRequest
    from outlex.formats.exports import EXPORTS

    if not artifact.is_dir():
        raise InputError("There is no such artifact", got=artifact, next_step="check the path")
    say(f"reading {artifact} and its drafter ...", style="dim")
    done = EXPORTS[to.value](ExportRequest(artifact=artifact, output=output, drafter=drafter, n_target=n_target))
    if as_json:
        emit_json(
            {
                "output": str(done.output),
                "format": to.value,
                "drafter": done.drafter,
                "n_draft": done.n_draft,
                "n_target": done.n_target,
                "proposal": done.proposal,
                "usage": done.usage,
                "notes": list(done.notes),
            }
        )
        return
    facts = {
        "written": f"{done.output} ({to.value})",
        "drafter": done.drafter,
        "proposes": f"{done.n_draft:,} tokens of {done.n_target:,}, by {done.proposal}",
        "use it": done.usage,
    }
    if done.notes:
        facts["mind"] = "; ".join(done.notes)
    print_facts(stdout_console(), facts)
