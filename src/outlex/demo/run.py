"""Runs the demo: load, make draft heads, measure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from outlex.atomic import replace_file
from outlex.bench import BenchResult
from outlex.bench.loaded import BenchModels
from outlex.bench.workload import PromptRecord
from outlex.decode import SpeculativeDecoder
from outlex.demo.config import DemoConfig, DemoResult
from outlex.demo.heads import make_heads
from outlex.demo.measuring import OnElapsed, measure_within
from outlex.demo.prompts import PROMPTS
from outlex.drafters import EagleDrafter
from outlex.formats.eagle_checkpoint import load_pair
from outlex.models import LanguageModel, load_model
from outlex.models.cache import cache_root, make_folder
from outlex.vocab.sub_vocab import SubVocab

__all__ = ["run_demo"]


def run_demo(config: DemoConfig, *, on_note: Callable[[str], None], on_elapsed: OnElapsed) -> DemoResult:
    """Run the demo. What it makes stays in the cache: heads, ranking, traces, prompts and result.

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
    results = make_folder(folder / "results")
    times.append(time.perf_counter())

    heads = make_heads(config, target, drafter, folder=folder, on_note=on_note)
    heads.trimmed.save(folder / "trimmed")
    if heads.fitted is not None:
        heads.fitted.save(folder / "fitted")
    n_full = heads.trimmed.base_n_rows
    on_note(f"kept {heads.trimmed.n_draft:,} of {n_full:,} head rows of {drafter.name}")
    times.append(time.perf_counter())

    models = BenchModels(target=target, drafter=drafter, trimmed=heads.artifacts)
    records = _write_prompts(folder / "prompts.jsonl")
    bench = measure_within(config, models, records, prompts_file=folder / "prompts.jsonl", on_elapsed=on_elapsed)
    bench.save(results / "bench.json")
    times.append(time.perf_counter())
    return DemoResult(
        bench=bench,
        decoder=SpeculativeDecoder(target, drafter, trimmed=heads.best, draft_len=config.draft_len),
        trimmed=folder / "trimmed",
        fitted=None if heads.fitted is None else folder / "fitted",
        ranking=heads.ranking,
        prompts=folder / "prompts.jsonl",
        result=results / "bench.json",
        n_draft=heads.trimmed.n_draft,
        n_full=n_full,
        coverage=_coverage(bench, heads.trimmed.vocab),
        seconds={
            name: end - begin
            for name, begin, end in zip(("models", "heads", "decoding"), times[:-1], times[1:], strict=True)
        },
    )


def _load_pair(
    config: DemoConfig, on_note: Callable[[str], None]
) -> tuple[LanguageModel, LanguageModel | EagleDrafter]:
    def load(source: str) -> LanguageModel:
        return load_model(
            source,
            dtype=config.dtype,
            device=config.device,
            threads=config.threads,
            cache_dir=config.cache_dir,
        )

    on_note(
        f"loading the target {config.target} (the first run fetches and converts it)"
        f" and the drafter {Path(config.drafter).name}"
    )
    target, drafter = load_pair(config.target, config.drafter, load=load)
    assert drafter is not None
    return target, drafter


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
