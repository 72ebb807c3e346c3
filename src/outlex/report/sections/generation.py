"""One generation: how it went, and the text with what each token was decided by."""

from __future__ import annotations

from typing import Any

from outlex.report.figure import Figure, Section
from outlex.report.source import Source
from outlex.report.table import Table
from outlex.report.token_view import token_figures
from outlex.report.values import count, number, optional

__all__ = ["generation"]

_STATISTICS = {
    "n_tokens": "tokens",
    "n_passes": "target passes",
    "n_accepted": "accepted drafts",
    "n_tested": "tested drafts",
    "acceptance_rate": "acceptance rate",
    "block_efficiency": "tokens a target pass",
    "tokens_per_s": "tokens a second",
    "wall_s": "seconds",
}


def generation(source: Source) -> Section:
    """What `outlex generate --trace` wrote or `--json` printed; without the first there is no token view."""
    body = source.body
    stats, params = body["stats"], body["params"]
    drafted = (
        "without a drafter"
        if body["drafter"] is None
        else f"drafted by {body['drafter']}, head {body['head']}, proposal {body['proposal']}, γ = {body['draft_len']}"
    )
    rests_on = f"{count(number(stats['n_tokens']))} tokens of one generation, seed {body['seed']}"
    findings: tuple[str, ...] = ()
    if body.get("tokens") is None:
        findings = ("This file does not say what each token was decided by: generate it again with --trace FILE.",)
    return Section(
        title="A generation, token by token",
        lead=f"{_name(body['target'])} at T = {number(params['temperature']):g}, {drafted}.",
        findings=findings,
        figures=(
            *(
                token_figures(body["tokens"], prompt=str(body["prompt"]), rests_on=rests_on)
                if body.get("tokens")
                else ()
            ),
            Figure(
                title="How it went",
                content=None,
                table=Table(
                    name="Statistics of the generation",
                    columns=("what", "value"),
                    rows=tuple((words, optional(stats[name])) for name, words in _STATISTICS.items()),
                ),
                rests_on=rests_on,
            ),
        ),
        source=source,
    )


def _name(target: Any) -> str:
    return str(target).rstrip("/").rsplit("/", 1)[-1]
