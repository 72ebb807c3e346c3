"""The methods that a benchmark compares, behind one protocol. They share the models in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Protocol

from outlex.bench.rows import MethodInfo, Run
from outlex.bench.transformers_baseline import ALONE, TransformersMethod
from outlex.decode.decoder import SpeculativeDecoder
from outlex.decode.generation import Generation
from outlex.decode.together import generate_together
from outlex.drafters.artifacts import told_apart
from outlex.drafters.eagle import EagleDrafter
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.bench.config import BenchConfig
    from outlex.drafters.artifacts import DraftHeadArtifact
    from outlex.models.language_model import LanguageModel
    from outlex.sampling import SamplingParams

__all__ = ["DecoderMethod", "Method", "build_methods", "run_of"]


class Method(Protocol):
    """One way to generate."""

    @property
    def info(self) -> MethodInfo:
        """Name and known sizes."""

    def run(self, prompt_ids: list[int], params: SamplingParams, *, max_new_tokens: int, seed: int) -> Run:
        """Generate once. Errors are not caught."""


class DecoderMethod:
    """Our own loop.

    Args:
        decoder: target, drafter and head.
        name: of the method.
        description: one line.
        n_draft: rows of the draft head; None without a drafter.
        vocab_fingerprint: of the sub-vocabulary; None without one.
        ignore_stop_ids: go on after end-of-sequence tokens.
    """

    def __init__(
        self,
        decoder: SpeculativeDecoder,
        *,
        name: str,
        description: str,
        n_draft: int | None = None,
        vocab_fingerprint: str | None = None,
        ignore_stop_ids: bool = False,
    ) -> None:
        self._decoder = decoder
        self._ignore_stop_ids = ignore_stop_ids
        self.info = MethodInfo(
            name=name,
            description=description,
            n_draft=n_draft,
            draft_bytes=None if decoder.drafter is None else decoder.drafter.bytes_per_step,
            target_bytes=decoder.target.bytes_per_step,
            vocab_fingerprint=vocab_fingerprint,
        )

    def run(self, prompt_ids: list[int], params: SamplingParams, *, max_new_tokens: int, seed: int) -> Run:
        """Generate once, with β measured at every tested draft."""
        generation = self._decoder.generate(
            prompt_ids,
            max_new_tokens=max_new_tokens,
            params=params,
            seed=seed,
            ignore_stop_ids=self._ignore_stop_ids,
            measure=True,
        )
        return run_of(generation)

    def run_together(
        self, prompts: list[list[int]], params: SamplingParams, *, max_new_tokens: int, seeds: list[int]
    ) -> list[Run]:
        """Generate once for each prompt, in shared forward passes. The runs tell no seconds but those of β."""
        generations = generate_together(
            self._decoder,
            prompts,
            seeds=seeds,
            max_new_tokens=max_new_tokens,
            params=params,
            ignore_stop_ids=self._ignore_stop_ids,
            measure=True,
        )
        runs = [run_of(generation) for generation in generations]
        return [
            replace(run, draft_s=None, head_s=None, target_s=None, draft_step_s=None, target_pass_s=None)
            for run in runs
        ]


def run_of(generation: Generation) -> Run:
    """What a benchmark keeps of a generation that was measured."""
    time = generation.time
    later = generation.steps[1:]
    # a block that was cut short by a stop token drafted more than it shows
    whole = [step for step in later if step.block.draft_ids and step.block.kind != "accepted"]
    return Run(
        token_ids=generation.token_ids,
        n_passes=len(generation.steps),
        n_drafted=sum(len(step.block.draft_ids) for step in generation.steps),
        n_accepted=generation.n_accepted,
        n_tested=generation.n_tested,
        sum_beta=sum(generation.overlaps),
        draft_s=time.draft_s,
        head_s=time.head_s,
        target_s=time.target_s,
        paused_s=time.paused_s,
        draft_step_s=median(step.time.draft_s / len(step.block.draft_ids) for step in whole) if whole else None,
        target_pass_s=median(step.time.target_s for step in later) if later else None,
    )


def build_methods(
    config: BenchConfig,
    *,
    target: LanguageModel,
    drafter: LanguageModel | EagleDrafter | None,
    trimmed: Sequence[DraftHeadArtifact],
) -> list[Method]:
    """The methods of a benchmark, in the order of its table: baselines, then trimmed drafters.

    Heads keep their names, "trimmed-<size>" for example; where several have one name, "#1", "#2" and so on follow.

    Raises:
        MismatchError: target, drafter and trimmed drafters do not belong together.
        InputError: transformers cannot run the pair.
    """
    stop_ids = frozenset[int]() if config.ignore_stop_ids else target.stop_ids
    methods: list[Method] = []
    if isinstance(drafter, EagleDrafter) and ("transformers" in config.baselines or config.batch_size > 1):
        raise InputError(
            "These methods cannot take a drafter that reads the target's hidden states",
            got=f"baselines {', '.join(config.baselines)}, batch_size {config.batch_size}",
            expected=f"requests one at a time, and the baselines ar, {', '.join(ALONE)} and untrimmed",
            next_step="give --baselines ar,untrimmed, and leave --batch-size out",
        )
    for name in config.baselines:
        if name.startswith("transformers"):
            assistant = drafter if name == "transformers" and not isinstance(drafter, EagleDrafter) else None
            methods.append(
                TransformersMethod(target, assistant, draft_len=config.draft_len, stop_ids=stop_ids, name=name)
            )
        else:
            methods.append(_baseline(config, name, target, drafter))
    for name, head in zip(told_apart([head.name for head in trimmed]), trimmed, strict=True):
        methods.append(
            DecoderMethod(
                SpeculativeDecoder(
                    target,
                    drafter,
                    trimmed=head,
                    cross_tokenizer=config.cross_tokenizer,
                    draft_len=config.draft_len,
                ),
                name=name,
                description=f"{config.draft_len} draft tokens from {head.base_name}, {head.name} head"
                + ("" if head.proposal is None else f", {head.proposal.name}"),
                n_draft=head.n_draft,
                vocab_fingerprint=str(head.describe()["fingerprint"]),
                ignore_stop_ids=config.ignore_stop_ids,
            )
        )
    return methods


def _baseline(
    config: BenchConfig, name: str, target: LanguageModel, drafter: LanguageModel | EagleDrafter | None
) -> Method:
    drafter = None if name == "ar" else drafter
    own = "one token a target pass"
    if drafter is not None:
        own = f"{config.draft_len} draft tokens from {drafter.name}, its whole head"
    return DecoderMethod(
        SpeculativeDecoder(target, drafter, cross_tokenizer=config.cross_tokenizer, draft_len=config.draft_len),
        name=name,
        description=own,
        n_draft=None if drafter is None else drafter.n_rows,
        ignore_stop_ids=config.ignore_stop_ids,
    )
