"""The engine, the reference and the prompts of `outlex verify`, loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from outlex.bench.workload import PromptRecord, read_prompts
from outlex.cli.options import Machine
from outlex.conformance.engine_openai import OpenAiEngine
from outlex.conformance.engine_outlex import OutlexEngine
from outlex.conformance.engine_transformers import TransformersEngine
from outlex.conformance.engine_vllm import VllmEngine, json_settings
from outlex.conformance.engines import Engine
from outlex.conformance.law import Tolerance
from outlex.conformance.openai_client import OpenAiClient
from outlex.conformance.reference import ModelReference
from outlex.decode.decoder import SpeculativeDecoder
from outlex.demo.prompts import PROMPTS
from outlex.drafters import TrimmedDrafter, load_draft_head
from outlex.drafters.eagle import EagleDrafter
from outlex.errors import InputError
from outlex.formats.eagle_checkpoint import is_eagle_directory, load_pair
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

if TYPE_CHECKING:
    from outlex.drafters.artifacts import DraftHeadArtifact
    from outlex.models import LanguageModel

__all__ = ["Plan", "Subject", "build", "prompt_records", "stdout_kept_clean"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the command line asks for; names as its options."""

    engine: str
    target: str
    drafter: str | None
    trimmed: Path | None
    draft_len: int
    prompt_lookup: bool
    speculative_config: str | None
    engine_args: str | None
    base_url: str | None
    served_model: str | None
    api_key: str | None
    timeout_s: float
    engine_dtype: str
    machine: Machine


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is judged, and what it is judged by.

    Attributes:
        engine: the black box.
        target: the reference's model, in float32.
        reference: its law.
        drafter: the drafter's law, where it can be loaded; None for an EAGLE drafter, whose law hangs on where blocks
            began.
        draft_ids: tokens that can be drafted, where they are known and not all.
    """

    engine: Engine
    target: LanguageModel
    reference: ModelReference
    drafter: ModelReference | None
    draft_ids: Tensor | None


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Whatever an engine in this process prints goes to stderr meanwhile: stdout is for the verdict."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def build(plan: Plan) -> Subject:
    """Load everything; what is cheap and can be wrong comes first.

    Raises:
        InputError, ModelError, MismatchError, ArtifactError: something is missing or does not fit.
    """
    Tolerance.of_dtype(plan.engine_dtype)
    speculative = json_settings(plan.speculative_config, "--speculative-config")
    settings = json_settings(plan.engine_args, "--engine-args")
    trimmed = None if plan.trimmed is None else load_draft_head(plan.trimmed)
    if plan.drafter is None and trimmed is not None:
        plan = replace(plan, drafter=trimmed.base_source)
    _check_transformers(plan)
    server = _server(plan)
    target, drafter = load_pair(plan.target, plan.drafter, load=plan.machine.load)
    reference = ModelReference(target)
    law = None
    if drafter is not None and not isinstance(drafter, EagleDrafter):
        check_same_tokenizer(facts_of(target.tokenizer), facts_of(drafter.tokenizer), remedy="")
        if drafter is not target:  # a drafter that is the target prefers nothing
            law = ModelReference(drafter, n_target=reference.n_target)
    if isinstance(trimmed, TrimmedDrafter):
        trimmed.vocab.check_tokenizer(facts_of(target.tokenizer))
    return Subject(
        engine=_engine(plan, server, target, drafter, trimmed, speculative, settings),
        target=target,
        reference=reference,
        drafter=law,
        draft_ids=_draft_ids(drafter, trimmed),
    )


def _check_transformers(plan: Plan) -> None:
    if plan.engine != "transformers":
        return
    is_eagle = plan.drafter is not None and is_eagle_directory(plan.drafter)
    if is_eagle or plan.trimmed is not None:
        raise InputError(
            f"transformers' own assisted generation takes no {'EAGLE' if is_eagle else 'trimmed'} drafter",
            got=f"--trimmed {plan.trimmed}" if plan.trimmed is not None else f"--drafter {plan.drafter}",
            expected="a model as --drafter, or --prompt-lookup",
            next_step="verify outlex: its hook for transformers runs the same loop",
        )


def _server(plan: Plan) -> tuple[OpenAiClient, str] | None:
    """The server and what it calls the target, for the engine that is one."""
    if plan.engine != "openai":
        return None
    assert plan.base_url is not None  # the command line checks
    client = OpenAiClient(plan.base_url, api_key=plan.api_key, timeout_s=plan.timeout_s)
    return client, client.served_model(plan.served_model)


def _draft_ids(drafter: LanguageModel | EagleDrafter | None, trimmed: DraftHeadArtifact | None) -> Tensor | None:
    if isinstance(trimmed, TrimmedDrafter):
        return trimmed.vocab.draft_to_target
    return drafter.checkpoint.draft_to_target if isinstance(drafter, EagleDrafter) else None


def _engine(
    plan: Plan,
    server: tuple[OpenAiClient, str] | None,
    target: LanguageModel,
    drafter: LanguageModel | EagleDrafter | None,
    trimmed: DraftHeadArtifact | None,
    speculative: dict[str, object] | None,
    settings: dict[str, object] | None,
) -> Engine:
    if plan.engine == "vllm":
        return VllmEngine(_directory(plan.target), speculative=speculative, dtype=plan.engine_dtype, settings=settings)
    if server is not None:
        client, served = server
        return OpenAiEngine(client, model=served, target=target, dtype=plan.engine_dtype)
    if plan.engine_dtype != "float32":  # models of its own, in that type
        load = replace(plan.machine, dtype=plan.engine_dtype).load
        target, drafter = load_pair(plan.target, plan.drafter, load=load)
    if plan.engine == "transformers":
        assert not isinstance(drafter, EagleDrafter)  # refused before anything was loaded
        return TransformersEngine(target, drafter, prompt_lookup=plan.prompt_lookup, draft_len=plan.draft_len)
    return OutlexEngine(SpeculativeDecoder(target, drafter, trimmed=trimmed, draft_len=plan.draft_len))


def _directory(source: str) -> str:
    """A directory for engines that know no catalogue names."""
    import torch

    from outlex.models.locate import locate
    from outlex.models.progress import Reporter

    return str(locate(source, dtype=torch.float32, cache_dir=None, report=Reporter(enabled=True)).directory)


def prompt_records(path: Path | None, *, limit: int | None) -> list[PromptRecord]:
    """The prompts in a file, or the demo's.

    Raises:
        InputError: a file that cannot be used, or fewer prompts than `limit`.
    """
    if path is not None:
        return read_prompts(path, limit=limit)
    return [PromptRecord(id=str(i), domain=domain, text=text) for i, (domain, text) in enumerate(PROMPTS)][:limit]
