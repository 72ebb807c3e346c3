"""`outlex diff`: which tokens two maps do not share, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.map_options import NTargetOption, ReadAs, ReadAsOption, StatsOption, TokenizerOption
from outlex.cli.options import JsonOption
from outlex.cli.output import emit_json, print_facts, stdout_console

if TYPE_CHECKING:
    from torch import Tensor

    from outlex.formats import MapFile
    from outlex.formats.tokens import Names

__all__ = ["diff"]

_N_SHOWN = 24


def diff(
    a: Annotated[Path, typer.Argument(help="A map of any format that 'outlex inspect' knows.")],
    b: Annotated[Path, typer.Argument(help="Another; it need not be of the same format.")],
    tokenizer: TokenizerOption = None,
    stats: StatsOption = None,
    read_as: ReadAsOption = None,
    n_target: NTargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two token maps: tokens that only one of them has, their order, and their coverage.

    How the files spell the maps does not matter. The exit code is 0 whether or not they differ.

    \b
    Example:
      outlex diff hot-tokens.pt eagle3-drafter --tokenizer qwen15 --stats stats.safetensors
    """
    result = _compare(a, b, tokenizer=tokenizer, stats=stats, read_as=read_as, n_target=n_target)
    if as_json:
        emit_json(result)
    else:
        _print(result)


def _compare(
    a: Path, b: Path, *, tokenizer: str | None, stats: Path | None, read_as: ReadAs | None, n_target: int | None
) -> dict[str, Any]:
    from outlex.calibration.stats import TokenStats
    from outlex.cli.inspect_target import target_facts
    from outlex.formats import Reading, read_map
    from outlex.formats.compare import compare
    from outlex.formats.tokens import Names, coverage

    reading = Reading(read_as=None if read_as is None else read_as.value, n_target=n_target)
    maps = [read_map(path, reading) for path in (a, b)]
    found = compare(*maps)
    facts = None if tokenizer is None else target_facts(tokenizer).facts
    names = None if facts is None else Names(facts=facts)
    counts = None if stats is None else TokenStats.load(stats)
    shares = [None if counts is None else coverage(one, counts, facts=facts) for one in maps]
    totals = [None if share is None else share["total"] for share in shares]
    return {
        "a": _side(maps[0], found.only_a, names, shares[0]),
        "b": _side(maps[1], found.only_b, names, shares[1]),
        "n_shared": found.n_shared,
        "jaccard": found.jaccard,
        "same_order": found.is_same_order,
        "identical": found.is_identical,
        "same_tokens": not found.only_a.numel() and not found.only_b.numel(),
        "coverage_b_less_a": None if totals[0] is None or totals[1] is None else totals[1] - totals[0],
        "fingerprints_differ": None not in (maps[0].tokenizer_fingerprint, maps[1].tokenizer_fingerprint)
        and maps[0].tokenizer_fingerprint != maps[1].tokenizer_fingerprint,
    }


def _side(map_file: MapFile, only: Tensor, names: Names | None, share: dict[str, Any] | None) -> dict[str, Any]:
    ids = only.tolist()
    return {
        "path": str(map_file.path),
        "format": map_file.format,
        "layout": map_file.layout,
        "spelling": map_file.spelling,
        "n_draft": map_file.n_draft,
        "n_target": map_file.n_target,
        "n_only": len(ids),
        "only": [{"id": i, "name": None if names is None else names.of(i)} for i in ids],
        "coverage": share,
    }


def _print(result: dict[str, Any]) -> None:
    from outlex.cli.inspect_map import share_in_words

    facts = {}
    for side in ("a", "b"):
        d = result[side]
        facts[side] = f"{d['path']}: {d['layout']}, {d['n_draft']:,} rows, {d['spelling']}"
        if d["coverage"] is not None:
            facts[f"{side} covers"] = share_in_words(d["coverage"])
    same = "identical: the same tokens in the same rows" if result["identical"] else None
    order = "in the same order" if result["same_order"] else "in another order"
    facts["shared"] = same or f"{result['n_shared']:,} tokens {order}, {result['jaccard']:.4f} of all in either"
    for side in ("a", "b"):
        if result[side]["n_only"]:
            shown = [token["name"] or str(token["id"]) for token in result[side]["only"][:_N_SHOWN]]
            more = result[side]["n_only"] - len(shown)
            facts[f"only in {side}"] = f"{result[side]['n_only']:,}: {' '.join(shown)}" + (
                f" and {more:,} more" if more else ""
            )
    if result["coverage_b_less_a"] is not None:
        facts["b less a"] = f"{result['coverage_b_less_a']:+.4f} of the counted tokens"
    if result["fingerprints_differ"]:
        facts["tokenizers"] = "NOT the same: an id may mean another token in the other map"
    print_facts(stdout_console(), facts)
