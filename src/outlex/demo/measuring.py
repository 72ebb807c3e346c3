"""The demo's measurement: the benchmark's own parts, one prompt after the other until the time is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from outlex.bench import BenchConfig, BenchResult
from outlex.bench.environment import describe_environment, memory_use
from outlex.bench.loaded import BenchModels, check_lengths
from outlex.bench.methods import build_methods
from outlex.bench.rows import Row
from outlex.bench.run import measure
from outlex.bench.workload import PromptRecord, encode_prompt
from outlex.decode.stopwatch import now
from outlex.demo.config import DemoConfig

__all__ = ["OnElapsed", "measure_within"]

OnElapsed = Callable[[float, float, str], None]


def measure_within(
    config: DemoConfig,
    models: BenchModels,
    records: Sequence[PromptRecord],
    *,
    prompts_file: Path,
    on_elapsed: OnElapsed,
) -> BenchResult:
    """Compare all methods on as many prompts as `config.budget_s` allows, at least one.

    Args:
        config: the demo's.
        models: loaded, with one trimmed drafter.
        records: the prompts, most wanted first.
        prompts_file: where they can be read, for the result's own account.
        on_elapsed: told the seconds so far, the budget, and what is decoded next.
    """
    bench_config = BenchConfig(
        target=config.target,
        drafter=config.drafter,
        prompts=prompts_file,
        max_new_tokens=config.max_new_tokens,
        draft_len=config.draft_len,
        baselines=config.baselines,
        temperatures=config.temperatures,
        dtype=config.dtype,
        device=config.device,
        threads=config.threads,
    )
    methods = build_methods(bench_config, target=models.target, drafter=models.drafter, trimmed=models.trimmed)
    prompt_ids = [encode_prompt(models.target, record, raw=False) for record in records]
    check_lengths(bench_config, models, records, prompt_ids)
    device = models.target.device
    environment = describe_environment(device)
    started = time.perf_counter()

    def tell(n_done: int, n_total: int, label: str) -> None:
        del n_done, n_total  # of all prompts; how many there is time for shows only later
        on_elapsed(time.perf_counter() - started, config.budget_s, label)

    rows: list[Row] = []
    in_turn = measure(
        bench_config,
        methods=methods,
        prompts=list(zip(records, prompt_ids, strict=True)),
        now=partial(now, device),
        on_progress=tell,
    )
    for n_prompts, of_prompt in enumerate(in_turn, start=1):
        rows += of_prompt
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
