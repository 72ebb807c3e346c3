"""`outlex merge`: add token statistics of one tokenizer up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from outlex.cli.count import parse_weights
from outlex.cli.options import JsonOption
from outlex.cli.output import emit_json, print_facts, stdout_console
from outlex.errors import InputError

__all__ = ["merge"]


def merge(
    stats: Annotated[list[Path], typer.Argument(help="Files of outlex count or outlex merge.", metavar="STATS")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", help="DOMAIN=W: what its counts are worth in a ranking; may be given several times."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add the counts of several files up, domain by domain.

    All must be of one tokenizer, and no counting run may be in two of them.

    \b
    Example:
      outlex merge chats.safetensors web.safetensors --weight web=0.2 -o all.safetensors
    """
    from outlex.calibration.stats import TokenStats

    weights = parse_weights(weight or [])
    if output.exists() and not overwrite:
        raise InputError(
            "The output exists already",
            got=output,
            next_step="choose another file with -o, or pass --overwrite to replace it",
        )
    first, *others = [TokenStats.load(path) for path in stats]
    merged = first.merge(others, weights=weights)
    merged.save(output)
    result: dict[str, Any] = {
        "output": str(output),
        "tokenizer_fingerprint": merged.tokenizer_fingerprint,
        "n_parts": len(merged.parts),
        "n_tokens": sum(merged.n_tokens),
        "n_documents": sum(merged.n_documents),
        "domains": {
            name: {"n_tokens": n_tokens, "n_documents": n_documents, "weight": w}
            for name, n_tokens, n_documents, w in zip(
                merged.domains, merged.n_tokens, merged.n_documents, merged.weights, strict=True
            )
        },
    }
    if as_json:
        emit_json(result)
        return
    print_facts(
        stdout_console(),
        {
            "statistics": result["output"],
            "counted": f"{result['n_tokens']:,} tokens in {result['n_documents']:,} documents,"
            f" {result['n_parts']} counting runs",
            **{
                f"domain {name}": f"{domain['n_tokens']:,} tokens, {domain['n_documents']:,} documents,"
                f" weight {domain['weight']:g}"
                for name, domain in result["domains"].items()
            },
        },
    )
