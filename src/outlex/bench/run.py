"""Runs a benchmark: every prompt and temperature with all methods in turn, in one process, by one clock."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from outlex.bench.config import BenchConfig
from outlex.bench.environment import describe_environment, memory_use
from outlex.bench.loaded import BenchModels, check_lengths, load_models
from outlex.bench.methods import DecoderMethod, Method, build_methods
from outlex.bench.partial import PartialFile
from outlex.bench.result import BenchResult, header_of
from outlex.bench.rows import Row, Run
from outlex.bench.workload import PromptRecord, encode_prompt, read_prompts
from outlex.decode.stopwatch import now
from outlex.models.shared_body import of_similar_length
from outlex.sampling import SamplingParams

__all__ = ["OnProgress", "measure", "run_bench"]

OnProgress = Callable[[int, int, str], None]
_WARM_UP_TOKENS = 8
_SEED_STRIDE = 1_000_003  # between prompts; repeats of a prompt count up from there


def run_bench(
    config: BenchConfig, *, models: BenchModels | None = None, on_progress: OnProgress | None = None
) -> BenchResult:
    """Measure, and write `config.output` if it names a file.

    While it runs, the rows so far are in `<output>.partial`; if it is cut off they stay there, and
    `BenchResult.load` reads them.

    Args:
        config: what to measure.
        models: models that are loaded already; None loads those of the config.
        on_progress: called before each run with the number of runs done, the number of all, and what comes
            next.

    Raises:
        InputError: prompts that cannot be read or do not fit the models' contexts.
        MismatchError: target, drafter and trimmed drafters do not belong together.
        ArtifactError: the output cannot be written, or a trimmed drafter is damaged.
        Exception: whatever a method raises; nothing is skipped.
    """
    records = read_prompts(config.prompts, limit=config.n_prompts)
    with PartialFile(config.output) as partial:
        models = models or load_models(config, progress=on_progress is not None)
        methods = build_methods(config, target=models.target, drafter=models.drafter, trimmed=models.trimmed)
        prompts = [encode_prompt(models.target, record, raw=config.raw) for record in records]
        check_lengths(config, models, records, prompts)
        device = models.target.device
        result = BenchResult(
            config=config.to_json(),
            environment=describe_environment(device),
            models=models.describe(),
            memory={},
            methods=tuple(method.info for method in methods),
            rows=(),
        )
        partial.write_header(header_of(result))
        rows: list[Row] = []
        for of_prompt in measure(
            config,
            methods=methods,
            prompts=list(zip(records, prompts, strict=True)),
            now=lambda: now(device),
            on_progress=on_progress or _silent,
        ):
            partial.write_rows(of_prompt)
            rows += of_prompt
        result = replace(result, rows=tuple(rows), memory=memory_use(device))
        if config.output is not None:
            result.save(config.output)
    return result


def measure(
    config: BenchConfig,
    *,
    methods: Sequence[Method],
    prompts: Sequence[tuple[PromptRecord, list[int]]],
    now: Callable[[], float],
    on_progress: OnProgress,
) -> Iterator[list[Row]]:
    """Run everything; yields the rows of one prompt, or one batch of prompts, at a time, in the order they were made.

    Each method warms up once. Then, for every prompt, temperature and repeat, all methods run in turn,
    and another one goes first each time: what the machine does meanwhile hits all of them alike.

    Args:
        config: temperatures, repeats, seed, length.
        methods: what to compare.
        prompts: with their token ids.
        now: seconds, after waiting for the device.
        on_progress: see `run_bench`.
    """
    settings = list(product(config.temperatures, range(config.repeats)))
    n_total, n_done = (len(prompts) * len(settings) + 1) * len(methods), 0
    for method in methods:
        on_progress(n_done, n_total, f"warm-up: {method.info.name}")
        n_new = min(_WARM_UP_TOKENS, config.max_new_tokens)
        method.run(prompts[0][1], config.params(config.temperatures[0]), max_new_tokens=n_new, seed=config.seed)
        n_done += 1
    first = 0
    for batch in _batches(prompts, config.batch_size):
        rows = []
        for temperature, repeat in settings:
            gc.collect()  # not inside somebody's run
            for order, method in enumerate([*methods[first:], *methods[:first]]):
                label = prompts[batch[0]][0].id + (f" and {len(batch) - 1} more" if len(batch) > 1 else "")
                on_progress(n_done, n_total, f"{label}, T = {temperature:g}: {method.info.name}")
                seeds = [config.seed + _SEED_STRIDE * index + repeat for index in batch]
                start = now()
                runs = _run(
                    method, [prompts[i][1] for i in batch], config.params(temperature), seeds, config.max_new_tokens
                )
                # of a batch each run gets the same share
                wall_s = (now() - start - sum(run.paused_s for run in runs)) / len(batch)
                for i, run, seed in zip(batch, runs, seeds, strict=True):
                    record, prompt_ids = prompts[i]
                    rows.append(
                        Row(
                            **vars(run),
                            prompt_id=record.id,
                            domain=record.domain,
                            n_prompt=len(prompt_ids),
                            method=method.info.name,
                            temperature=temperature,
                            repeat=repeat,
                            order=order,
                            seed=seed,
                            wall_s=wall_s,
                        )
                    )
                n_done += len(batch)
            first = (first + 1) % len(methods)
        yield rows
    on_progress(n_done, n_total, "done")


def _batches(prompts: Sequence[tuple[PromptRecord, list[int]]], batch_size: int) -> Iterable[list[int]]:
    if batch_size == 1:
        return ([i] for i in range(len(prompts)))
    return of_similar_length([len(prompt_ids) for _, prompt_ids in prompts], batch_size)


def _run(
    method: Method, prompts: list[list[int]], params: SamplingParams, seeds: list[int], max_new_tokens: int
) -> list[Run]:
    if len(prompts) > 1:
        assert isinstance(method, DecoderMethod)  # the config refuses others
        return method.run_together(prompts, params, max_new_tokens=max_new_tokens, seeds=seeds)
    return [method.run(prompts[0], params, max_new_tokens=max_new_tokens, seed=seeds[0])]


def _silent(n_done: int, n_total: int, label: str) -> None:
    del n_done, n_total, label
