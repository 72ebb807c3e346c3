"""Runs the demo within a budget of time: load, choose the draft vocabulary, trim, measure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from outlex.atomic import replace_file
from outlex.bench import BenchConfig, BenchResult
from outlex.bench.environment import describe_environment, memory_use
from outlex.bench.loaded import BenchModels, check_lengths
from outlex.bench.methods import build_methods
from outlex.bench.rows import Row
from outlex.bench.run import measure
from outlex.bench.workload import PromptRecord, encode_prompt
from outlex.demo.prompts import PROMPTS
from outlex.demo.ranking import prior_ranking
from outlex.drafters import TrimmedDrafter, trim
from outlex.errors import InputError
from outlex.models import LanguageModel, load_model
from outlex.models.cache import cache_root, make_folder
from outlex.vocab.must_keep import must_keep
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

__all__ = ["PAIRS", "DemoConfig", "DemoResult", "run_demo"]

# name -> target, drafter
PAIRS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"qwen": ("qwen15", "qwen05"), "smol": ("smol135", "smol135")}
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo does. The defaults take about four minutes of decoding on two cores.

    Attributes:
        target, drafter: what `load_model` loads them by.
        size: rows of the trimmed head; a smaller vocabulary is cut to a third of its rows instead.
        budget_s: seconds of decoding. No prompt is begun that would probably end later, but the first one always is,
            and a prompt that was begun is finished by every method.
        max_new_tokens: tokens of output a prompt.
        draft_len: γ.
        temperatures: each is measured on its own.
        dtype, device, threads, cache_dir: as in `load_model`.

    Raises:
        InputError: a budget that is no positive number.
    """

    target: str = "qwen15"
    drafter: str = "qwen05"
    size: int = 16_384
    budget_s: float = 240.0
    max_new_tokens: int = 32
    draft_len: int = 4
    temperatures: tuple[float, ...] = (0.0, 1.0)
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cache_dir: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise InputError(
                "The demo needs some time",
                got=f"{self.budget_s} s",
                expected="a positive number of seconds",
                next_step="give --budget-s 60 for a short look",
            )


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What came out.

    Attributes:
        bench: the measurement.
        trimmed: directory of the trimmed drafter.
        ranking, prompts, result: files with the token ranking, the demo's prompts and the measurement, for commands
            to go on with.
        n_draft, n_full: rows of the draft head, after and before.
        coverage: share of the target's own output tokens ("ar", all temperatures) that the draft vocabulary holds.
        seconds: how long each part took: "models", "vocabulary", "decoding".
    """

    bench: BenchResult
    trimmed: Path
    ranking: Path
    prompts: Path
    result: Path
    n_draft: int
    n_full: int
    coverage: float
    seconds: dict[str, float]


def run_demo(
    config: DemoConfig,
    *,
    on_note: Callable[[str], None],
    on_progress: Callable[[float, float, str], None],
) -> DemoResult:
    """Run the demo.

    Args:
        config: what to do.
        on_note: told each part as it begins, one line.
        on_progress: told the seconds of decoding so far, the budget, and what is decoded next.

    Raises:
        OutlexError: a model cannot be had, the pair does not fit, or the cache cannot be written.
    """
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    target, drafter = _load_pair(config, on_note)
    folder = make_folder(
        cache_root(config.cache_dir) / "demo" / f"{target.name}-{drafter.name}-{config.size}"
    )
    files = {
        name: folder / f"{name}.json{'l' if name == 'prompts' else ''}"
        for name in ("ranking", "prompts", "result")
    }
    seconds["models"] = time.perf_counter() - started

    started = time.perf_counter()
    on_note("choosing the draft vocabulary: the tokenizer's own order and the standard library's docstrings")
    trimmed = _trim(config, target, drafter, ranking_file=files["ranking"])
    trimmed.save(folder / "trimmed")
    seconds["vocabulary"] = time.perf_counter() - started
    on_note(f"kept {trimmed.vocab.n_draft:,} of {drafter.n_rows:,} head rows of {drafter.name}")

    started = time.perf_counter()
    records = _records()
    lines = [
        json.dumps({"id": r.id, "domain": r.domain, "prompt": r.text}, ensure_ascii=False) for r in records
    ]
    replace_file(files["prompts"], ("\n".join(lines) + "\n").encode())
    bench = _measure(
        config,
        BenchModels(target=target, drafter=drafter, trimmed=(trimmed,)),
        records,
        prompts_file=files["prompts"],
        on_progress=on_progress,
    )
    bench.save(files["result"])
    seconds["decoding"] = time.perf_counter() - started
    return DemoResult(
        bench=bench,
        trimmed=folder / "trimmed",
        **files,
        n_draft=trimmed.vocab.n_draft,
        n_full=drafter.n_rows,
        coverage=_coverage(bench, trimmed.vocab),
        seconds=seconds,
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

    on_note(f"loading the target {config.target}; the first run fetches and converts it")
    target = load(config.target)
    if config.drafter == config.target:
        return target, target
    on_note(f"loading the drafter {config.drafter}")
    return target, load(config.drafter)


def _trim(
    config: DemoConfig, target: LanguageModel, drafter: LanguageModel, *, ranking_file: Path
) -> TrimmedDrafter:
    facts = facts_of(drafter.tokenizer)
    check_same_tokenizer(facts_of(target.tokenizer), facts)
    ids, provenance = prior_ranking(drafter.tokenizer, facts)
    replace_file(ranking_file, json.dumps(ids.tolist()).encode())
    n_rows = min(target.n_rows, drafter.n_rows)
    kept = must_keep(
        facts, stop_ids=sorted(i for i in target.stop_ids | drafter.stop_ids if i < facts.n_entries)
    )
    vocab = SubVocab.from_ranking(
        ids,
        size=config.size if config.size < n_rows else max(len(kept), n_rows // 3),
        facts=facts,
        n_target=n_rows,
        must_keep=kept,
        provenance=provenance,
    )
    return trim(drafter, vocab.with_target_width(target.n_rows))


def _records() -> list[PromptRecord]:
    return [
        PromptRecord(id=f"demo-{number}", domain=domain, text=text)
        for number, (domain, text) in enumerate(PROMPTS, start=1)
    ]


def _measure(
    config: DemoConfig,
    models: BenchModels,
    records: list[PromptRecord],
    *,
    prompts_file: Path,
    on_progress: Callable[[float, float, str], None],
) -> BenchResult:
    bench_config = BenchConfig(
        target=config.target,
        drafter=config.drafter,
        prompts=prompts_file,
        max_new_tokens=config.max_new_tokens,
        draft_len=config.draft_len,
        temperatures=config.temperatures,
        dtype=config.dtype,
        device=config.device,
        threads=config.threads,
    )
    methods = build_methods(
        bench_config, target=models.target, drafter=models.drafter, trimmed=models.trimmed
    )
    prompt_ids = [encode_prompt(models.target, record, raw=False) for record in records]
    check_lengths(bench_config, models, records, prompt_ids)
    device = models.target.device
    environment = describe_environment(device)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    started = time.perf_counter()

    def tell(n_done: int, n_total: int, label: str) -> None:
        del n_done, n_total  # of all prompts; how many there is time for shows later
        on_progress(time.perf_counter() - started, config.budget_s, label)

    rows: list[Row] = []
    n_prompts = 0
    for of_prompt in measure(
        bench_config,
        methods=methods,
        prompts=list(zip(records, prompt_ids, strict=True)),
        now=now,
        on_progress=tell,
    ):
        rows += of_prompt
        n_prompts += 1
        elapsed = time.perf_counter() - started
        if elapsed + elapsed / n_prompts > config.budget_s:
            break
    return BenchResult(
        config=bench_config.to_json(),
        environment=environment,
        models=models.describe(),
        memory=memory_use(device),
        methods=tuple(method.info for method in methods),
        rows=tuple(rows),
    )


def _coverage(bench: BenchResult, vocab: SubVocab) -> float:
    """Counted with multiplicity, on what the target writes when nothing drafts for it."""
    kept = set(vocab.draft_to_target.tolist())
    ids = [token_id for row in bench.rows if row.method == "ar" for token_id in row.token_ids]
    return sum(token_id in kept for token_id in ids) / len(ids)
