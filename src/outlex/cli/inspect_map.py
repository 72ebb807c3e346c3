"""What a token map of any program holds, whether it fits a target, and what each engine would do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from outlex.calibration.stats import TokenStats
from outlex.cli.inspect_target import policy_of, target_facts
from outlex.cli.output import print_facts, stdout_console
from outlex.formats import MapFile, Reading, read_map, recognise
from outlex.formats.engines import verdicts
from outlex.formats.fit import TargetFacts, fit
from outlex.formats.tokens import Names, coverage, missing_must_keep

__all__ = ["describe_map", "print_engines", "print_map", "share_in_words"]

_N_SHOWN = 12
_N_MISSING = 24


def describe_map(
    place: Path, *, reading: Reading, tokenizer: str | None, target: str | None, stats: Path | None
) -> dict[str, Any]:
    """JSON values that describe a map.

    Raises:
        OutlexError: damaged, ambiguous, or a model or statistics that cannot be read.
    """
    evidence = recognise(place)
    map_file = read_map(place, reading)
    goal = None if target is None else target_facts(target)
    made_for = None if tokenizer is None else target_facts(tokenizer)
    named_by = made_for or goal
    judgement = None if goal is None else fit(map_file, goal, made_for=None if made_for is None else made_for.facts)
    # Ids that mean other tokens would get wrong names.
    if judgement is not None and judgement.verdict == "no" and made_for is None:
        named_by = None
    missing = {} if named_by is None else _missing(map_file, named_by)
    every = sorted({token_id for ids in missing.values() for token_id in ids})
    counts = None if stats is None else TokenStats.load(stats)
    return {
        "kind": "token-map",
        "path": str(place),
        "format": map_file.format,
        "recognised_by": None if evidence is None else evidence.why,
        "layout": map_file.layout,
        "n_draft": map_file.n_draft,
        "n_target": map_file.n_target,
        "highest_id": int(map_file.ids.max()),
        "order": "ascending" if map_file.is_ascending else "ranked",
        "spelling": map_file.spelling,
        "settled_by": map_file.settled_by,
        "tensors": dict(map_file.tensors),
        "traps": list(map_file.traps),
        "tokens": None if named_by is None else _tokens(map_file, named_by),
        "must_keep": None if named_by is None else _must_keep(missing, every, named_by),
        "coverage": None
        if counts is None
        else coverage(map_file, counts, facts=None if named_by is None else named_by.facts),
        "target": None
        if goal is None or judgement is None
        else {"name": goal.name, "n_rows": goal.n_rows, "n_tokenizer": goal.facts.n_entries, **asdict(judgement)},
        "engines": [asdict(verdict) for verdict in verdicts(map_file, missing=every)],
    }


def _missing(map_file: MapFile, named_by: TargetFacts) -> dict[str, list[int]]:
    return missing_must_keep(map_file.ids, policy_of(named_by), n_target=named_by.n_rows)


def _tokens(map_file: MapFile, named_by: TargetFacts) -> dict[str, Any]:
    names, ids = Names(facts=named_by.facts), map_file.ids.tolist()
    return {"named_by": named_by.name, "first": names.of_all(ids[:_N_SHOWN]), "last": names.of_all(ids[-_N_SHOWN:])}


def _must_keep(missing: dict[str, list[int]], every: list[int], named_by: TargetFacts) -> dict[str, Any]:
    names, policy = Names(facts=named_by.facts), policy_of(named_by)
    return {
        "named_by": named_by.name,
        "n_missing": len(every),
        "reasons": {
            reason: {
                "n": len(policy.reasons[reason]),
                "n_missing": len(ids),
                "missing": [{"id": token_id, "name": names.of(token_id)} for token_id in ids],
            }
            for reason, ids in missing.items()
        },
    }


def print_map(description: dict[str, Any]) -> None:
    """The same for people."""
    d = description
    width = "an unknown width" if d["n_target"] is None else f"{d['n_target']:,} rows"
    facts = {
        "map": f"{d['layout']} ({d['format']}: {d['recognised_by']})",
        "rows": f"{d['n_draft']:,} for a target head of {width}; highest id {d['highest_id']:,}",
        "order": "by id: ranks are lost" if d["order"] == "ascending" else "not by id: ranked, hottest first by custom",
        "numbers": f"{'offsets' if d['spelling'] == 'offsets' else 'absolute ids'}: {d['settled_by']}",
    }
    if d["tensors"]:
        some = [f"{name} {shape}" for name, shape in d["tensors"].items() if "head" in name or "embed" in name]
        facts["with it"] = f"{len(d['tensors']):,} other tensors" + (f": {', '.join(some[:4])}" if some else "")
    if d["tokens"] is not None:
        facts["first rows"] = " ".join(d["tokens"]["first"])
        facts["last rows"] = " ".join(d["tokens"]["last"])
    if d["must_keep"] is None:
        facts["must-keep"] = "unknown: give --tokenizer MODEL"
    else:
        facts |= _must_keep_facts(d["must_keep"])
    if d["coverage"] is not None:
        facts["coverage"] = share_in_words(d["coverage"])
    if d["target"] is not None:
        target = d["target"]
        fits = {"yes": "yes", "no": "NO", "unproven": "as far as numbers tell"}[target["verdict"]]
        facts["fits target"] = f"{fits}: {target['name']}, {target['n_rows']:,} rows, {target['n_tokenizer']:,} tokens"
        facts |= {f"  {number}": finding for number, finding in enumerate(target["findings"], 1)}
    console = stdout_console()
    print_facts(console, facts)
    console.print(Text("\nWhat the engines would do with it (read in their sources, not run):", style="bold"))
    print_engines(d["engines"])


def print_engines(engines: Sequence[dict[str, Any]]) -> None:
    """One paragraph for each engine."""
    console = stdout_console()
    for engine in engines:
        head = Text.assemble((f"{engine['engine']:<18}", "green" if engine["loads"] else "dim"), engine["what"])
        console.print(head, soft_wrap=True)
        for trap in engine["traps"]:
            console.print(Text(f"{'':18}- {trap}", style="yellow"), soft_wrap=True)


def share_in_words(found: dict[str, Any]) -> str:
    """0.9731 of counted tokens, and by domain."""
    domains = ", ".join(f"{name} {share:.4f}" for name, share in found["domains"].items() if share is not None)
    proven = "" if found["tokenizer_is_proven"] else " (if the counts are of the same tokenizer: --tokenizer proves it)"
    total = "nothing counted" if found["total"] is None else f"{found['total']:.4f} of the counted tokens"
    return f"{total}{f': {domains}' if domains else ''}{proven}"


def _must_keep_facts(found: dict[str, Any]) -> dict[str, str]:
    total = f"{found['n_missing']:,} missing" if found["n_missing"] else "all there"
    facts = {"must-keep": f"{total}, by the tokenizer of {found['named_by']}"}
    for reason, entry in found["reasons"].items():
        if entry["n_missing"]:
            names = [token["name"] for token in entry["missing"][:_N_MISSING]]
            more = f" and {entry['n_missing'] - _N_MISSING:,} more" if entry["n_missing"] > _N_MISSING else ""
            facts[f"  {reason}"] = f"{entry['n_missing']:,} of {entry['n']:,} missing: {' '.join(names)}{more}"
    return facts
