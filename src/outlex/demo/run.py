"""Runs the demo: load, choose the draft vocabulary, trim, measure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from outlex.atomic import replace_file
from outlex.bench import BenchResult
from outlex.bench.loaded import BenchModels
from outlex.bench.workload import PromptRecord
from outlex.demo.config import DemoConfig, DemoResult
from outlex.demo.measuring import OnElapsed, measure_within
from outlex.demo.prompts import PROMPTS
from outlex.demo.ranking import prior_ranking
from outlex.drafters import TrimmedDrafter, trim
from outlex.models import LanguageModel, load_model
from outlex.models.cache import cache_root, make_folder
from outlex.vocab.must_keep import must_keep
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

__all__ = ["run_demo"]


def run_demo(config: DemoConfig, *, on_note: Callable[[str], None], on_elapsed: OnElapsed) -> DemoResult:
    """Run the demo. What it makes stays in the cache: the trimmed drafter, ranking, prompts and result.

    Args:
        config: what to do.
        on_note: told each part as it begins, one line.
        on_elapsed: told the seconds of decoding so far, the budget, and what is decoded next.

    Raises:
        InputError: a size that the drafter's vocabulary does not allow.
        OutlexError: a model cannot be had, the pair does not fit, or the cache cannot be written.
    """
    times = [time.perf_counter()]
    target, drafter = _load_pair(config, on_note)
    pair = f"{target.name}-{drafter.name}-{config.size}"
    folder = make_folder(cache_root(config.cache_dir) / "demo" / pair)
    times.append(time.perf_counter())

    on_note("choosing tokens by the tokenizer's own order and the docstrings of Python's standard library")
    trimmed = _trim(config, target, drafter, ranking_file=folder / "ranking.json")
    trimmed.save(folder / "trimmed")
    on_note(f"kept {trimmed.vocab.n_draft:,} of {drafter.n_rows:,} head rows of {drafter.name}")
    times.append(time.perf_counter())

    models = BenchModels(target=target, drafter=drafter, trimmed=(trimmed,))
    records = _write_prompts(folder / "prompts.jsonl")
    bench = measure_within(config, models, records, prompts_file=folder / "prompts.jsonl", on_elapsed=on_elapsed)
    bench.save(folder / "result.json")
    times.append(time.perf_counter())
    return DemoResult(
        bench=bench,
        trimmed=folder / "trimmed",
        ranking=folder / "ranking.json",
        prompts=folder / "prompts.jsonl",
        result=folder / "result.json",
        n_draft=trimmed.vocab.n_draft,
        n_full=drafter.n_rows,
        coverage=_coverage(bench, trimmed.vocab),
        seconds={
            name: end - begin
            for name, begin, end in zip(("models", "vocabulary", "decoding"), times[:-1], times[1:], strict=True)
        },
    )


def _load_pair(config: DemoConfig, on_note: Callable[[str], None]) -> tuple[LanguageModel, LanguageModel]:
    def load(source: str) -> LanguageModel:
        return load_model(
            source,
            dtype=config.dtype,
            device=config.device,
            threads=config.threads,
            cache_dir=config.cache_dir,
        )

    on_note(f"loading the target {config.target} (the first run fetches and converts it)")
    target = load(config.target)
    if config.drafter == config.target:
        return target, target
    on_note(f"loading the drafter {config.drafter}")
    return target, load(config.drafter)


def _trim(config: DemoConfig, target: LanguageModel, drafter: LanguageModel, *, ranking_file: Path) -> TrimmedDrafter:
    facts = facts_of(drafter.tokenizer)
    check_same_tokenizer(facts_of(target.tokenizer), facts)
    ids, provenance = prior_ranking(drafter.tokenizer, facts)
    replace_file(ranking_file, json.dumps(ids.tolist()).encode())
    stop_ids = target.stop_ids | drafter.stop_ids
    vocab = SubVocab.from_ranking(
        ids,
        size=config.size,
        facts=facts,
        n_target=min(target.n_rows, drafter.n_rows),  # a row is kept only if both heads have it
        must_keep=must_keep(facts, stop_ids=sorted(i for i in stop_ids if i < facts.n_entries)),
        provenance=provenance,
    )
    return trim(drafter, vocab.with_target_width(target.n_rows))


def _write_prompts(path: Path) -> list[PromptRecord]:
    """The demo's prompts; also as a file that `outlex bench --prompts` takes."""
    records = [
        PromptRecord(id=f"demo-{number}", domain=domain, text=text)
        for number, (domain, text) in enumerate(PROMPTS, start=1)
    ]
    lines = [json.dumps({"id": r.id, "domain": r.domain, "prompt": r.text}) + "\n" for r in records]
    replace_file(path, "".join(lines).encode())
    return records


def _coverage(bench: BenchResult, vocab: SubVocab) -> float:
    """Counted with multiplicity, on what the target writes when nothing drafts for it."""
    kept = set(vocab.draft_to_target.tolist())
    ids = [token_id for row in bench.rows if row.method == "ar" for token_id in row.token_ids]
    return sum(token_id in kept for token_id in ids) / len(ids)
