"""Benchmarks: speed, speed-up, where the time goes, acceptance by domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outlex.report.figure import Figure, Section
from outlex.report.interval_chart import Group, IntervalChart, Row
from outlex.report.sections.domains import domain_figure
from outlex.report.source import Source
from outlex.report.stacked_chart import Stack, StackedChart
from outlex.report.table import Table
from outlex.report.values import Value, count, estimate_of, number, optional

__all__ = ["bench", "demo"]

Summaries = list[dict[str, Any]]


def demo(source: Source) -> Section:
    """What `outlex demo --json` printed: a benchmark inside."""
    inside = {**source.body["bench"]}
    return bench(Source(name=source.name, path=source.path, body=inside))


def bench(source: Source) -> Section:
    """A benchmark, from its file or from what `--json` printed.

    Raises:
        ArtifactError: the file's checksum is not that of its values.
    """
    summaries, findings = _summaries(source)
    body = source.body
    models, config = body["models"], body["config"]
    runs = sum(int(number(one["n_runs"])) for one in summaries)
    rests_on = f"{count(sum(number(one['n_tokens']) for one in summaries))} tokens in {runs} runs"
    together = int(number(config.get("batch_size", 1))) > 1
    figures: tuple[Figure, ...] = ()
    if not together:  # seconds of a batch say nothing about a request
        figures += (_speed(summaries, rests_on), *_speedup(summaries, rests_on), *_time(summaries, rests_on))
    figures += (*_acceptance(summaries), _everything(summaries, rests_on))
    target = str(models["target"]["name"])
    pair = f"{models['drafter']['name']} drafts for {target}" if models.get("drafter") else target
    cut_off = () if body.get("complete", True) else ("The benchmark was cut off: these are the prompts it got to.",)
    return Section(
        title="Benchmark",
        lead=f"{pair}: {config['draft_len']} draft tokens, at most {config['max_new_tokens']} new tokens a prompt, all"
        " methods in turn on the same prompts in one process.",
        findings=(*cut_off, *findings),
        figures=figures,
        source=source,
    )


def _summaries(source: Source) -> tuple[Summaries, tuple[str, ...]]:
    from outlex.bench.result import BenchResult
    from outlex.bench.verdict import verdicts

    if "checksum" not in source.body:
        return source.body["summary"], tuple(map(str, source.body.get("verdicts", ())))
    result = BenchResult.load(source.path)
    return [one.to_json() for one in result.summary], tuple(verdicts(result))


def _grouped(summaries: Summaries, row: Callable[[dict[str, Any]], Row | None]) -> tuple[Group, ...]:
    """Rows by temperature; a method without one is left out."""
    temperatures = dict.fromkeys(number(one["temperature"]) for one in summaries)
    rows = [(number(one["temperature"]), row(one)) for one in summaries]
    groups = [Group(name=f"T = {t:g}", rows=tuple(r for of, r in rows if of == t and r)) for t in temperatures]
    return tuple(group for group in groups if group.rows)


def _speed(summaries: Summaries, rests_on: str) -> Figure:
    return Figure(
        title="Speed",
        content=IntervalChart(
            label="Tokens a second of each method, by temperature.",
            groups=_grouped(
                summaries,
                lambda one: Row(name=str(one["method"]), values=(Value(value=number(one["tokens_per_s"])),)),
            ),
            series=("tokens/s",),
            x_name="tokens a second",
            bars=True,
        ),
        table=Table(
            name="Speed",
            columns=("T", "method", "tokens", "seconds", "tokens/s"),
            rows=tuple(
                (
                    number(one["temperature"]),
                    one["method"],
                    number(one["n_tokens"]),
                    number(one["wall_s"]),
                    number(one["tokens_per_s"]),
                )
                for one in summaries
            ),
        ),
        note="All tokens over all seconds, prompts included.",
        rests_on=rests_on,
    )


def _speedup(summaries: Summaries, rests_on: str) -> tuple[Figure, ...]:
    measured = {str(speedup["over"]) for one in summaries for speedup in one["speedups"]}
    over = next((name for name in ("ar", "untrimmed") if name in measured), None)
    if over is None:
        return ()
    found = [(one, next((s for s in one["speedups"] if s["over"] == over), None)) for one in summaries]
    rows = {id(one): estimate_of(speedup["median"]) for one, speedup in found if speedup is not None}
    return (
        Figure(
            title=f"Speed-up over {over}",
            note="Median of the prompts' own ratios, with its 95 % interval where six prompts or more were measured.",
            content=IntervalChart(
                label=f"Median speed-up of each method over {over}, by temperature.",
                groups=_grouped(
                    summaries,
                    lambda one: Row(name=str(one["method"]), values=(rows[id(one)],)) if id(one) in rows else None,
                ),
                series=("speed-up",),
                x_name=f"× {over}",
                reference=(1.0, over),
            ),
            table=Table(
                name=f"Speed-up over {over}",
                columns=("T", "method", "median", "of totals"),
                rows=tuple(
                    (number(one["temperature"]), one["method"], rows[id(one)], number(speedup["totals"]))
                    for one, speedup in found
                    if speedup is not None
                ),
            ),
            rests_on=rests_on,
        ),
    )


def _time(summaries: Summaries, rests_on: str) -> tuple[Figure, ...]:
    """Milliseconds a token; the drafter's are split in two where the head was timed by itself."""
    timed = [one for one in summaries if one["draft_s"] is not None and one["target_s"] is not None]
    if not timed:
        return ()
    with_head = any(one.get("head_s") is not None for one in timed)
    names = ("draft layers" if with_head else "drafter, its head included", "draft head", "target: verify", "other")
    stacks = []
    for one in timed:
        draft, head = number(one["draft_s"]), optional(one.get("head_s"))
        seconds = (max(0.0, draft - (head or 0.0)), head, number(one["target_s"]), max(0.0, number(one["other_s"])))
        scale = 1e3 / number(one["n_tokens"])
        stacks.append(
            Stack(
                group=f"T = {number(one['temperature']):g}",
                name=str(one["method"]),
                parts=tuple(None if s is None else s * scale for s in seconds),
            )
        )
    return (
        Figure(
            title="Where the time goes",
            note="Milliseconds a token. The target's share is its passes, which verify the drafts; other is proposals,"
            " verification, Python and text.",
            content=StackedChart(
                label="Milliseconds a token of each method, split into drafter, target and the rest.",
                stacks=tuple(stacks),
                parts=names,
                x_name="ms a token",
            ),
            table=Table(
                name="Milliseconds a token",
                columns=("T", "method", *names, "all"),
                rows=tuple((stack.group, stack.name, *stack.parts, stack.total) for stack in stacks),
            ),
            rests_on=rests_on,
        ),
    )


def _acceptance(summaries: Summaries) -> tuple[Figure, ...]:
    drafting = [one for one in summaries if one["acceptance"] is not None]
    if not drafting:
        return ()
    tested = max(number(one["acceptance"]["beta"]["n"]) for one in drafting)
    rests_on = f"up to {count(tested)} tested drafts a method and temperature"
    note = "Mean of the exact acceptance probability β over the drafts that met their test; prompts are clusters."
    whole = Figure(
        title="Acceptance",
        note=note,
        content=IntervalChart(
            label="Acceptance of each method, by temperature, with 95 % intervals.",
            groups=_grouped(
                drafting,
                lambda one: Row(name=str(one["method"]), values=(estimate_of(one["acceptance"]["beta"]),)),
            ),
            series=("α",),
            x_name="α, mean β",
        ),
        table=Table(
            name="Acceptance",
            columns=("T", "method", "α, mean β", "accepted / tested", "share of the untrimmed head's"),
            rows=tuple(
                (
                    number(one["temperature"]),
                    one["method"],
                    estimate_of(one["acceptance"]["beta"]),
                    estimate_of(one["acceptance"]["counted"]),
                    estimate_of(one["acceptance_kept"]),
                )
                for one in drafting
            ),
        ),
        rests_on=rests_on,
    )
    return (whole, *_domains(drafting, note, rests_on))


def _domains(drafting: Summaries, note: str, rests_on: str) -> tuple[Figure, ...]:
    methods = list(dict.fromkeys(str(one["method"]) for one in drafting))
    domains = list(dict.fromkeys(name for one in drafting for name in one["acceptance_by_domain"]))
    if len(domains) < 2:
        return ()
    by_place = {(number(one["temperature"]), str(one["method"])): one["acceptance_by_domain"] for one in drafting}

    def value(temperature: float, domain: str, method: str) -> Value | None:
        found = by_place.get((temperature, method), {}).get(domain)
        return None if found is None else estimate_of(found["beta"])

    temperatures = dict.fromkeys(number(one["temperature"]) for one in drafting)
    places = [
        (f"T = {t:g}", name, tuple(value(t, name, method) for method in methods))
        for t in temperatures
        for name in domains
    ]
    return (
        domain_figure(
            places, series=methods, title="Acceptance in each domain", x_name="α, mean β", note=note, rests_on=rests_on
        ),
    )


def _everything(summaries: Summaries, rests_on: str) -> Figure:
    names = {
        "block_efficiency": "τ",
        "draft_step_s": "draft step, s",
        "target_pass_s": "target pass, s",
        "expected_speedup": "expected ×",
        "mbsu": "mbsu ×",
        "n_same_as_ar": "same as ar",
    }
    return Figure(
        title="More of each method",
        content=None,
        table=Table(
            name="Methods",
            columns=("T", "method", "runs", "α, mean β", "α kept", *names.values()),
            rows=tuple(
                (
                    number(one["temperature"]),
                    one["method"],
                    number(one["n_runs"]),
                    None if one["acceptance"] is None else estimate_of(one["acceptance"]["beta"]),
                    estimate_of(one["acceptance_kept"]),
                    *(optional(one[name]) for name in names),
                )
                for one in summaries
            ),
        ),
        rests_on=rests_on,
    )
