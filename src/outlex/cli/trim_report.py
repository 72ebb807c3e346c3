"""What `outlex trim` says at the end: the size and the reasons for it, and what is kept and lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from outlex.cli.output import copyable, human_bytes, print_facts, stdout_console
from outlex.cli.trim_speed import HELD_OUT_NAMES, held_out_rows, speed_front, speed_reasons
from outlex.selection.report import coverage_by_domain, dropped_tokens

if TYPE_CHECKING:
    from outlex.drafters import TrimmedDrafter
    from outlex.metrics import Estimate
    from outlex.selection.evidence import Evidence
    from outlex.selection.ranking import Ranked
    from outlex.vocab.must_keep import MustKeep
    from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["print_report", "report"]

_N_DROPPED = 10
_BOUNDS = {
    "utility": "nothing held it back",
    "min_coverage": "held up by --min-coverage",
    "min_size": "held up by --min-size",
    "max_size": "held down by --max-size",
}


def report(
    trimmed: TrimmedDrafter,
    *,
    output: Path,
    command: Sequence[str],
    kept: MustKeep,
    facts: TokenizerFacts,
    evidence: Evidence | None,
    reported: Evidence | None,
    ranked: Ranked,
    size_search: dict[str, Any] | None,
    full_bytes: int,
) -> dict[str, Any]:
    """The result as a JSON object."""
    vocab = trimmed.vocab
    is_kept = torch.zeros(facts.n_entries, dtype=torch.bool)
    is_kept[vocab.draft_to_target] = True
    weights = reported.total() if reported is not None else ranked.weights
    lost = [] if weights is None else dropped_tokens(is_kept, weights, facts=facts, n=_N_DROPPED)
    generate = ["generate", *command, "--trimmed", str(output), "-p", "Write a haiku about small words."]
    return {
        "output": str(output),
        "base": trimmed.base_name,
        "n_draft": vocab.n_draft,
        "n_full": trimmed.base_n_rows,
        "n_target": vocab.n_target,
        "n_tokenizer": vocab.n_tokenizer,
        "n_must_keep": {"all": len(kept), **{reason: len(ids) for reason, ids in kept.reasons.items()}},
        "selection": dict(vocab.provenance["selection"]),
        "head_bytes": {"before": full_bytes, "after": trimmed.linear.n_bytes},
        "coverage": None if evidence is None else vocab.coverage(evidence.total()),
        "domains": _domains(is_kept, evidence),
        "reported_domains": _domains(is_kept, reported),
        "dropped": [{"id": token.id, "text": token.text, "share": token.share} for token in lost],
        "dropped_by": None if weights is None else "--report-on" if reported is not None else "--tokens",
        "size_search": size_search,
        "ranking": ranked.provenance,
        "fingerprint": vocab.fingerprint,
        "next": copyable(generate),
    }


def _domains(is_kept: torch.Tensor, evidence: Evidence | None) -> list[dict[str, Any]]:
    if evidence is None:
        return []
    return [_row(name, estimate) for name, estimate in coverage_by_domain(is_kept, evidence)]


def _row(name: str, estimate: Estimate) -> dict[str, Any]:
    return {
        "domain": name,
        "n_tokens": estimate.n,
        "coverage": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
    }


def print_report(result: dict[str, Any]) -> None:
    """The same for people."""
    console, selection, head = stdout_console(), result["selection"], result["head_bytes"]
    reasons = ", ".join(f"{reason} {n}" for reason, n in result["n_must_keep"].items() if n and reason != "all")
    coverage = result["coverage"]
    print_facts(
        console,
        {
            "artifact": result["output"],
            "rows kept": f"{result['n_draft']:,} of {result['n_full']:,} of {result['base']}",
            **_reasons(result["size_search"]),
            "must-keep": f"{selection['n_must_keep']} ({reasons}; a token can have several reasons)",
            "not ranked": f"{selection['n_filled']:,} rows filled in the tokenizer's own order",
            "LM head": f"{human_bytes(head['before'])} -> {human_bytes(head['after'])}",
            "coverage": "unknown: the list has no counts" if coverage is None else f"{coverage:.4f} of the counts",
            "fingerprint": result["fingerprint"][:12],
        },
    )
    if result["size_search"] is not None:
        _print_front(result["size_search"])
    for title, rows in (
        ("Coverage of what it was chosen by", result["domains"]),
        ("Coverage of --report-on", result["reported_domains"]),
    ):
        lines = ((row["domain"], f"{row['n_tokens']:,}", *_estimate(row)) for row in rows)
        _print_table(title, ("domain", "tokens", "kept", "95 % interval"), lines)
    lost = ((repr(row["text"]), str(row["id"]), f"{row['share']:.2e}") for row in result["dropped"])
    _print_table(f"Dropped tokens that matter most, by {result['dropped_by']}", ("token", "id", "share"), lost)
    console.print("\nTry it:", style="bold")
    console.print(f"  {result['next']}", markup=False, soft_wrap=True)


def _reasons(search: dict[str, Any] | None) -> dict[str, str]:
    if search is None:
        return {}
    if search["objective"] == "speed":
        return speed_reasons(search)
    alpha, unit = search["goal"]["alpha"], search["cost"]["unit"]
    utility = f"{alpha:g}·C + {1 - alpha:g}·R = {search['utility']:.4f}"
    pays = "" if search["pays_above"] is None else f"; a row pays above {search['pays_above']:.2e} of the tokens"
    facts = {
        "why": f"best {utility}, C {search['coverage']:.4f}, R {search['reduction']:.4f} of the {unit} of a draft step",
        "found by": f"{search['method']}, {_BOUNDS[search['bound']]}{pays}",
    }
    if unit == "seconds":
        cost = search["cost"]
        facts["measured"] = (
            f"{cost['n_rounds']} rounds, {cost['threads']} threads, {cost['dtype']} on {cost['device']}:"
            f" head {cost['head_s'][-1] * 1e3:.2f} ms, the rest {cost['rest_s'] * 1e3:.2f} ms"
        )
    return facts


def _print_front(search: dict[str, Any]) -> None:
    if search["objective"] == "speed":
        _print_table(
            "Settings that nothing beats", ("rows", "γ", "proposal", "C", "tokens/s", "R"), speed_front(search)
        )
        _print_table("Forecast on the other half of the traces", HELD_OUT_NAMES, held_out_rows(search))
        return
    unit = search["cost"]["unit"]
    lines = (
        (
            f"{point['size']:,}" + (" <" if point["size"] == search["size"] else ""),
            f"{point['coverage']:.4f}",
            f"{point['cost']:.4g}",
            f"{point['reduction']:.3f}",
        )
        for point in search["pareto"]
    )
    _print_table("Sizes that nothing beats", ("rows", "C", unit, "R"), lines)


def _estimate(row: dict[str, Any]) -> tuple[str, str]:
    unknown = row["low"] != row["low"]
    return f"{row['coverage']:.4f}", "-" if unknown else f"{row['low']:.4f} to {row['high']:.4f}"


def _print_table(title: str, names: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = list(lines)
    if not rows:
        return
    stdout_console().print(f"\n{title}", style="bold")  # not the table's own title, which would be folded to its width
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: a token can look like markup
    stdout_console().print(table)
