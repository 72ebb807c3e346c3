"""`outlex verify`: whether an engine's speculative decoding keeps the target's law."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from outlex.cli.options import MODEL_HELP, DeviceOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import emit_json, say
from outlex.cli.progress import Ticker
from outlex.cli.sampling_options import SAMPLING_PANEL, MinPOption, RepetitionPenaltyOption, TopKOption, TopPOption
from outlex.errors import InputError

__all__ = ["EngineName", "verify"]

_DRAFTING = "How the engine drafts"
_TEST = "How hard it is looked at"


class EngineName(str, Enum):
    """Engines that can be judged."""

    outlex = "outlex"
    transformers = "transformers"
    vllm = "vllm"
    openai = "openai"


def verify(
    engine: Annotated[
        EngineName,
        typer.Argument(
            help="outlex, transformers, vllm (in this process) or openai (any server with /v1/completions)."
        ),
    ],
    target: Annotated[str, typer.Option("--target", help=f"The model whose law has to be kept: {MODEL_HELP}.")],
    drafter: Annotated[
        str | None,
        typer.Option(
            "--drafter",
            help="The drafter, a model or an EAGLE directory; without one the engine decodes alone, which is the"
            " control. vllm and openai have theirs already: it only sharpens the test.",
        ),
    ] = None,
    trimmed: Annotated[
        Path | None,
        typer.Option(
            "--trimmed",
            help="Directory of `outlex trim`: outlex drafts with it; with other engines it tells which tokens the"
            " drafter has.",
        ),
    ] = None,
    draft_len: Annotated[
        int,
        typer.Option("--draft-len", min=1, help="Tokens drafted before each target pass.", rich_help_panel=_DRAFTING),
    ] = 4,
    prompt_lookup: Annotated[
        bool,
        typer.Option(
            "--prompt-lookup", help="transformers: draft by looking tokens up in the prompt.", rich_help_panel=_DRAFTING
        ),
    ] = False,
    speculative_config: Annotated[
        str | None,
        typer.Option("--speculative-config", help="vllm: its speculative_config, as JSON.", rich_help_panel=_DRAFTING),
    ] = None,
    engine_args: Annotated[
        str | None,
        typer.Option(
            "--engine-args",
            help="vllm: other arguments of vllm.LLM, as JSON, such as '{\"enforce_eager\": true}'.",
            rich_help_panel=_DRAFTING,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url", help="openai: the server, such as http://127.0.0.1:8000/v1.", rich_help_panel=_DRAFTING
        ),
    ] = None,
    served_model: Annotated[
        str | None,
        typer.Option(
            "--served-model",
            help="openai: as the server calls the target. The default is the only model that it serves.",
            rich_help_panel=_DRAFTING,
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="openai: seconds for one request.", rich_help_panel=_DRAFTING)
    ] = 120.0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 checks greedy outputs alone.", rich_help_panel=SAMPLING_PANEL)
    ] = 1.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionPenaltyOption = 1.0,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="JSON lines with 'prompt' or 'messages'. Default: the demo's.", rich_help_panel=_TEST
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use this many of the prompts.", rich_help_panel=_TEST)
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Take prompts as they are, without chat template.", rich_help_panel=_TEST)
    ] = False,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Sampled outputs over all prompts, at most.", rich_help_panel=_TEST)
    ] = 2000,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Tokens of a sampled output.", rich_help_panel=_TEST)
    ] = 8,
    greedy_tokens: Annotated[
        int,
        typer.Option("--greedy-tokens", min=0, help="Tokens of a greedy output; 0 skips them.", rich_help_panel=_TEST),
    ] = 32,
    false_alarm: Annotated[
        float, typer.Option("--false-alarm", help="Probability of blaming a right engine.", rich_help_panel=_TEST)
    ] = 0.01,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Log odds that rounding may move a set of tokens by. Default: by the engine's dtype.",
            rich_help_panel=_TEST,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the first output.", rich_help_panel=_TEST)] = 0,
    as_json: JsonOption = False,
    engine_dtype: Annotated[
        str,
        typer.Option(
            "--engine-dtype",
            help="In which the engine computes: float32, bfloat16 or float16. The reference is always float32.",
            rich_help_panel="Where it runs",
        ),
    ] = "float32",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Judge an engine as a black box: does its speculative decoding keep the target's law?

    Greedy outputs are compared token by token with the target's float32 forward; sampled tokens go through a sequential
    test. Exit code 1 says that the law departs, and the report says where.

    \b
    Example:
      outlex verify outlex --target qwen15 --drafter qwen05 --trimmed qwen05-16k
      outlex verify transformers --target qwen15 --drafter qwen05 --samples 500
      outlex verify openai --target qwen15 --base-url http://127.0.0.1:8000/v1 \\
        --served-model qwen15 --engine-dtype bfloat16
    """
    from outlex.conformance import CheckConfig
    from outlex.sampling import SamplingParams

    _check_options(
        engine,
        prompt_lookup=prompt_lookup,
        drafter=drafter,
        speculative_config=speculative_config,
        engine_args=engine_args,
        base_url=base_url,
    )
    config = CheckConfig(
        params=SamplingParams(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
        ),
        n_samples=samples,
        max_new_tokens=max_new_tokens,
        greedy_tokens=greedy_tokens,
        false_alarm=false_alarm,
        odds=tolerance,
        seed=seed,
    )
    from outlex.bench.workload import encode_prompt
    from outlex.cli.verify_report import print_plan, print_verdict
    from outlex.cli.verify_run import Plan, build, prompt_records, stdout_kept_clean
    from outlex.conformance import verify_engine

    plan = Plan(
        engine=engine.value,
        target=target,
        drafter=drafter,
        trimmed=trimmed,
        draft_len=draft_len,
        prompt_lookup=prompt_lookup,
        speculative_config=speculative_config,
        engine_args=engine_args,
        base_url=base_url,
        served_model=served_model,
        api_key=os.environ.get("OPENAI_API_KEY"),
        timeout_s=timeout_s,
        engine_dtype=engine_dtype,
        machine=Machine(dtype="float32", device=device, threads=threads),
    )
    records = prompt_records(prompts, limit=limit)
    with stdout_kept_clean():
        subject = build(plan)
    prompt_ids = [encode_prompt(subject.target, record, raw=raw) for record in records]
    print_plan(config, subject)
    with stdout_kept_clean(), Ticker() as ticker:
        found = verify_engine(
            subject.engine,
            subject.reference,
            prompt_ids,
            config,
            target_name=subject.target.name,
            drafter=subject.drafter,
            draft_ids=subject.draft_ids,
            on_progress=ticker.of_total,
        )
    if as_json:
        emit_json(found.to_json())
    else:
        print_verdict(found, subject.target)
    if not found.lossless_so_far:
        say("the law departs", style="bold red")
        raise typer.Exit(1)


def _check_options(
    engine: EngineName,
    *,
    prompt_lookup: bool,
    drafter: str | None,
    speculative_config: str | None,
    engine_args: str | None,
    base_url: str | None,
) -> None:
    wrong = [
        (prompt_lookup and engine is not EngineName.transformers, "--prompt-lookup", "transformers"),
        (speculative_config is not None and engine is not EngineName.vllm, "--speculative-config", "vllm"),
        (engine_args is not None and engine is not EngineName.vllm, "--engine-args", "vllm"),
        (base_url is not None and engine is not EngineName.openai, "--base-url", "openai"),
    ]
    for is_wrong, option, only in wrong:
        if is_wrong:
            raise InputError(
                f"{option} says nothing to this engine",
                got=engine.value,
                expected=only,
                next_step=f"leave it out, or verify {only}",
            )
    if prompt_lookup and drafter is not None:
        raise InputError(
            "Drafts come from a drafter or from the prompt",
            got="--drafter and --prompt-lookup",
            expected="one of them",
            next_step="leave one out",
        )
    if engine is EngineName.openai and base_url is None:
        raise InputError(
            "The server's address is missing",
            expected="--base-url http://HOST:PORT/v1",
            next_step="start the server with speculative decoding and give its address",
        )
