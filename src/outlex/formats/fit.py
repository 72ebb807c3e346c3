"""Whether a map fits a target: the width of its head, its padding, and what its tokenizer means by an id."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from outlex.formats.base import MapFile
from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["Fit", "Relation", "TargetFacts", "fit", "relation"]

_MOST_PADDING = 2048  # rows: heads are padded to multiples of 64 to 1,024
RelationKind = Literal["same", "added", "reordered", "different"]


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """What has to be known of a target, without its weights.

    Attributes:
        name: as the user calls it.
        n_rows: of its head, padding included.
        facts: of its tokenizer.
        stop_ids: tokens that end a text, ascending.
    """

    name: str
    n_rows: int
    facts: TokenizerFacts = field(repr=False)
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Two tokenizers, by what their ids mean.

    Attributes:
        kind: ``same``; ``added``, one has more tokens at the end and all others agree; ``reordered``, the same pieces
            under other ids; ``different``, anything else.
        changed: ids that both have and that mean different pieces, ascending.
        n_added: how many more the second has at the end, negative if the first has.
    """

    kind: RelationKind
    changed: tuple[int, ...] = field(repr=False)
    n_added: int


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The judgement on one map and one target.

    Attributes:
        verdict: ``yes``, ``no`` or ``unproven``: the numbers fit, but nothing says whose tokens they are.
        findings: each in a sentence, the reason for the verdict first.
        n_padding: ids of the map that are rows of the head without a token.
    """

    verdict: Literal["yes", "no", "unproven"]
    findings: tuple[str, ...]
    n_padding: int


def relation(ours: TokenizerFacts, theirs: TokenizerFacts) -> Relation:
    """How the tokens of `theirs` stand to those of `ours`."""
    pairs = zip(ours.pieces, theirs.pieces, strict=False)
    changed = tuple(index for index, (a, b) in enumerate(pairs) if a != b)
    n_added = theirs.n_entries - ours.n_entries
    kind: RelationKind = "same" if n_added == 0 else "added"
    if changed:
        kind = "reordered" if sorted(map(str, ours.pieces)) == sorted(map(str, theirs.pieces)) else "different"
    return Relation(kind=kind, changed=changed, n_added=n_added)


def fit(map_file: MapFile, target: TargetFacts, *, made_for: TokenizerFacts | None) -> Fit:
    """Judge a map against a target.

    Args:
        map_file: the map.
        target: the target.
        made_for: of the tokenizer whose ids the map holds, where the user says it.
    """
    findings: list[str] = []
    wrong: list[str] = []
    highest, n_entries = int(map_file.ids.max()), target.facts.n_entries
    n_padding = int(((map_file.ids >= n_entries) & (map_file.ids < target.n_rows)).sum())
    if highest >= target.n_rows:
        wrong.append(f"id {highest:,} is beyond the {target.n_rows:,} rows of {target.name}'s head")
    if n_padding:
        wrong.append(f"{n_padding:,} ids are padding of the head: {target.name} has {n_entries:,} tokens")
    proven = _tokenizer(map_file, target, made_for, findings, wrong)
    if map_file.n_target is not None and map_file.n_target != target.n_rows:
        line = f"the map is for a head of {map_file.n_target:,} rows, {target.name} has {target.n_rows:,}"
        is_near = abs(map_file.n_target - n_entries) <= _MOST_PADDING
        if is_near and min(map_file.n_target, target.n_rows) >= n_entries:
            line += f": both are padding after {n_entries:,} tokens, and no id changes"
        if is_near or proven:
            findings.insert(0, line)
        else:
            wrong.append(f"{line}, and {n_entries:,} tokens: more than padding, so it is another vocabulary's")
    if wrong:
        return Fit(verdict="no", findings=(*wrong, *findings), n_padding=n_padding)
    return Fit(verdict="yes" if proven else "unproven", findings=tuple(findings), n_padding=n_padding)


def _tokenizer(
    map_file: MapFile, target: TargetFacts, made_for: TokenizerFacts | None, findings: list[str], wrong: list[str]
) -> bool:
    """Whether the ids provably mean the target's tokens; adds what is known to `findings` or `wrong`."""
    if map_file.tokenizer_fingerprint is not None and map_file.n_tokenizer is not None:
        n_shared = min(map_file.n_tokenizer, target.facts.n_entries)
        whole = n_shared == map_file.n_tokenizer
        if whole and target.facts.fingerprint_of_first(n_shared) == map_file.tokenizer_fingerprint:
            n_more = target.facts.n_entries - n_shared
            more = f", which has {n_more:,} more at the end" if n_more else ""
            findings.append(f"the fingerprint of its tokenizer is that of {target.name}{more}")
            return True
        if made_for is None:
            wrong.append(f"the fingerprint of its tokenizer is not that of {target.name}")
            return False
    if made_for is None:
        findings.append("a list of ids does not say whose tokens they are; --tokenizer MODEL says it")
        return False
    found = relation(made_for, target.facts)
    shared = "the tokenizers agree on every id"
    if found.kind == "same":
        findings.append(shared)
    elif found.kind == "added":
        whose = target.name if found.n_added > 0 else "the map's tokenizer"
        findings.append(f"{shared}; {whose} has {abs(found.n_added):,} tokens more at the end")
    else:
        kept = set(map_file.ids.tolist())
        moved = [index for index in found.changed if index in kept]
        how = "the same tokens under other ids" if found.kind == "reordered" else "other tokens"
        line = f"{target.name} has {how}: {len(found.changed):,} ids changed, {len(moved):,} of them in the map"
        if moved:
            line += f" (id {moved[0]}: {made_for.pieces[moved[0]]!r} there, {target.facts.pieces[moved[0]]!r} here)"
        wrong.append(line)
    return found.kind in ("same", "added")
