"""Runs `outlex trim`: evidence, order, size, rows, artifact."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.artifact import check_destination
from outlex.cli.options import Machine
from outlex.cli.output import say
from outlex.cli.trim_config import Objective, SizeSearch, TrimConfig
from outlex.cli.trim_report import report
from outlex.cli.trim_speed import read_traces, search_speed
from outlex.drafters.eagle import EagleDrafter
from outlex.drafters.trimmed import KIND
from outlex.drafters.trimmed import trim as trim_drafter
from outlex.errors import InputError
from outlex.formats.eagle_checkpoint import is_eagle_directory, load_eagle, read_eagle
from outlex.formats.tensor_files import read_config
from outlex.models.output_head import output_head
from outlex.selection.architecture import shape_of
from outlex.selection.cost import Cost, weight_bytes
from outlex.selection.coverage import CoverageCurve
from outlex.selection.evidence import Evidence, check_apart
from outlex.selection.latency import measure_latency
from outlex.selection.plan import curve_of, plan_size
from outlex.selection.ranking import rank
from outlex.selection.sources import read_evidence
from outlex.vocab.must_keep import must_keep
from outlex.vocab.ranking import Ranking
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import TokenizerFacts, check_same_tokenizer, facts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outlex.calibration.traces import TraceSet
    from outlex.models import LanguageModel

__all__ = ["run_trim"]


def run_trim(config: TrimConfig) -> dict[str, Any]:
    """Trim, write the artifact, and say what was done as a JSON object.

    Raises:
        OutlexError: whatever cannot be had, read, chosen or written; nothing is left half-written.
    """
    check_destination(config.output, kind=KIND)
    eagle = _eagle(config)
    drafter = config.machine.load(config.drafter) if eagle is None else eagle.target
    facts = facts_of(drafter.tokenizer)
    source, reported = _read_sources(config, facts)
    full = output_head(drafter)
    n_target, stop_ids = full.n_rows, drafter.stop_ids
    sets = read_traces(config.size, full)
    for one in sets:
        n_target, stop_ids = one.header.target.n_rows, stop_ids | set(one.header.stop_ids)
    if eagle is None and config.target is not None and config.target != config.drafter:
        n_target, target_stop_ids = _read_target(config.target, config.machine, facts, sets)
        stop_ids |= target_stop_ids
    kept = must_keep(
        facts,
        stop_ids=sorted(i for i in stop_ids if i < facts.n_entries),
        extra_ids=[_token_id(word, drafter) for word in config.keep],
    )
    n_shared = min(n_target, full.n_rows)  # a row is kept only if both heads have it
    ranked = rank(source, facts=facts, must_keep=kept, by=config.rank.value)
    cut = partial(SubVocab.from_ranking, ranked.ids, facts=facts, n_target=n_shared, must_keep=kept)
    target = config.target or (sets[0].header.target.source if sets else "TARGET")
    command = ["--target", target, "--drafter", config.drafter]
    size_search: dict[str, Any] | None = None
    if isinstance(config.size, SizeSearch):
        curve = curve_of(ranked, facts=facts, n_target=n_shared, must_keep=kept)
        if config.size.speed is None:
            size_search = _search(config.size, curve, eagle or drafter, config.machine)
        else:
            size_search = search_speed(
                config.size,
                config.size.speed,
                sets,
                curve=curve,
                drafter=drafter,
                vocab_of=lambda size: cut(size=size, provenance={}),
                machine=config.machine,
            )
            command += ["--draft-len", str(size_search["draft_len"]), "--proposal", size_search["proposal"]]
        vocab = cut(size=size_search["size"], provenance={**ranked.provenance, "size_search": size_search})
    else:
        vocab = cut(size=config.size, provenance=ranked.provenance)
    trimmed = trim_drafter(eagle or drafter, vocab.with_target_width(n_target))
    trimmed.save(config.output)
    return report(
        trimmed,
        output=config.output,
        command=command,
        kept=kept,
        facts=facts,
        evidence=source if isinstance(source, Evidence) else None,
        reported=reported,
        ranked=ranked,
        size_search=size_search,
        full_bytes=full.n_bytes,
    )


def _eagle(config: TrimConfig) -> EagleDrafter | None:
    """An EAGLE drafter with its target, whose head is what is trimmed; None for any other drafter.

    Raises:
        InputError: nobody says which target it belongs to, or the size is to be searched for by timing it.
    """
    if not is_eagle_directory(config.drafter):
        return None
    if isinstance(config.size, SizeSearch) and config.size.objective is not Objective.flops:
        raise InputError(
            "The step of an EAGLE drafter is neither timed nor weighed to choose a size",
            got=f"--objective {config.size.objective.value}",
            expected=f"--objective {Objective.flops.value}, or a size",
            next_step="give --size N, and compare sizes with 'outlex bench'",
        )
    source = config.target or read_eagle(config.drafter).config.target.source
    if source is None:
        raise InputError(
            "An EAGLE drafter is trimmed by the rows of its target's head, and this one does not name its target",
            got=config.drafter,
            expected="--target MODEL",
            next_step="give the model that it drafts for as --target",
        )
    return load_eagle(config.drafter, target=config.machine.load(source))


def _read_sources(config: TrimConfig, facts: TokenizerFacts) -> tuple[Evidence | Ranking, Evidence | None]:
    source = read_evidence(config.tokens, facts=facts)
    if not config.report_on:
        return source, None
    reported = read_evidence(config.report_on, facts=facts)
    if isinstance(reported, Ranking):
        raise InputError(
            "Coverage needs counts",
            got=f"{config.report_on[0]}, a list without counts",
            expected="counts, statistics or traces",
            next_step="count another part of the corpus with 'outlex count', and give that file as --report-on",
        )
    if isinstance(source, Evidence):
        check_apart(source, reported)
    return source, reported


def _search(
    settings: SizeSearch, curve: CoverageCurve, drafter: LanguageModel | EagleDrafter, machine: Machine
) -> dict[str, Any]:
    if isinstance(drafter, EagleDrafter):
        config = read_config(Path(drafter.source) / "config.json")
        cost: Cost = replace(shape_of(config), n_rows=drafter.full_head.n_rows).flops()
    elif settings.objective is Objective.latency:
        machine.warn_if_busy()
        say("measuring the drafter's step at several sizes ...", style="dim")
        cost = measure_latency(drafter)
    elif settings.objective is Objective.bytes:
        cost = weight_bytes(drafter)
    else:
        cost = replace(shape_of(drafter.model.config), n_rows=drafter.n_rows).flops()
    plan = plan_size(curve, cost, settings.goal, search_by=settings.search.value, seed=settings.seed)
    return {**plan.to_json(), "objective": settings.objective.value}


def _read_target(
    source: str, machine: Machine, facts: TokenizerFacts, sets: Sequence[TraceSet]
) -> tuple[int, frozenset[int]]:
    """Width and stop ids of the target. Its weights are let go at once: they are not needed to trim."""
    target = machine.load(source)
    check_same_tokenizer(facts_of(target.tokenizer), facts)
    for one in sets:
        one.header.target.check(output_head(target), role="target")
    return target.n_rows, target.stop_ids


def _token_id(word: str, drafter: LanguageModel) -> int:
    """A number is an id; anything else is a token as the tokenizer writes it, or text that is one token."""
    if word.isdecimal():
        return int(word)
    piece_id = drafter.tokenizer.get_vocab().get(word)
    if piece_id is not None:
        return int(piece_id)
    ids = drafter.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        pieces = drafter.tokenizer.convert_ids_to_tokens(ids)
        raise InputError(
            "--keep takes one token at a time",
            got=f"{word!r}, which is {len(ids)} tokens: {' '.join(map(repr, pieces))}",
            expected="a token id, or text that is a single token",
            next_step="give --keep once for each of these tokens",
        )
    return ids[0]
