"""Speculative decoding of text, one request at a time.

Several prompts are decoded one after the other: batching requests inside one forward pass is what serving engines are
for, and outlex exports to them. To measure acceptance, `together.py` shares passes between loops like this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from outlex.decode.block import BlockDecoder, BlockObserver
from outlex.decode.generation import Generation, Step
from outlex.decode.stopwatch import Stopwatch
from outlex.decode.text import TextStream
from outlex.drafters.artifacts import DraftHeadArtifact, proposal_of
from outlex.drafters.base import Drafter
from outlex.drafters.eagle import EagleDrafter
from outlex.drafters.independent import IndependentDrafter
from outlex.drafters.retokenizing import RetokenizingDrafter
from outlex.errors import InputError
from outlex.heads.base import DraftHead
from outlex.models.load import LanguageModel
from outlex.models.runner import TargetRunner
from outlex.models.target import Target
from outlex.proposals.base import Proposal
from outlex.proposals.tli import Tli
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import SamplingParams
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

__all__ = ["Prompt", "SpeculativeDecoder"]

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


class SpeculativeDecoder:
    """A target, a drafter and a proposal, ready to decode. The output law is the target's own.

    Args:
        target: the model whose law is kept.
        drafter: a smaller model with the same tokenizer, any `Drafter` (`RetokenizingDrafter` for a model with another
            tokenizer), or None to decode autoregressively.
        trimmed: use this trimmed or fitted head instead of the drafter's whole one.
        cross_tokenizer: let a loaded drafter have another tokenizer: it becomes a `RetokenizingDrafter`.
        proposal: q ↦ q̃; by default the one that the trimmed or fitted head brings along, else TLI.
        draft_len: γ, tokens drafted before each target pass.

    Raises:
        MismatchError: tokenizers, head or map do not belong together.
        InputError: a draft length below 1, or a trimmed head without a drafter to put it on.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafter: LanguageModel | Drafter | None = None,
        *,
        trimmed: DraftHeadArtifact | None = None,
        cross_tokenizer: bool = False,
        proposal: Proposal | None = None,
        draft_len: int = 4,
    ) -> None:
        if draft_len < 1:
            raise InputError(
                "The draft length cannot be used",
                got=draft_len,
                expected="an integer >= 1",
                next_step="4 is a good start",
            )
        self.loaded = target
        self.target: Target = TargetRunner(target)
        tokenizer, stored = None, trimmed
        if cross_tokenizer and isinstance(drafter, LanguageModel):
            tokenizer = facts_of(target.tokenizer).fingerprint
            drafter, trimmed = RetokenizingDrafter(target, drafter, trimmed=trimmed), None
        self._trimmed = trimmed
        self.drafter = self._as_drafter(target, drafter, trimmed)
        if proposal is None and stored is not None:
            proposal = proposal_of(stored, n_target=self.target.n_target, device=target.device, tokenizer=tokenizer)
        self.proposal: Proposal = proposal or Tli()
        self.draft_len = draft_len

    def _as_drafter(
        self, target: LanguageModel, drafter: LanguageModel | Drafter | None, trimmed: DraftHeadArtifact | None
    ) -> Drafter | None:
        if isinstance(drafter, LanguageModel):
            check_same_tokenizer(
                facts_of(target.tokenizer),
                facts_of(drafter.tokenizer),
                remedy=", or allow another one: --cross-tokenizer (cross_tokenizer=True in Python)",
            )
            n_target = self.target.n_target
            if trimmed is None:
                return IndependentDrafter(drafter, n_target=n_target)
            return IndependentDrafter(drafter, head=trimmed.head_for(drafter, n_target=n_target))
        if isinstance(drafter, EagleDrafter):
            drafter.checkpoint.config.target.check(target)
            return drafter if trimmed is None else drafter.with_head(trimmed)
        if trimmed is not None:
            raise InputError(
                "A trimmed or fitted head needs the drafter it was made for",
                got="no loaded drafter model",
                expected=f"drafter=load_model({trimmed.base_source!r})",
                next_step="a RetokenizingDrafter takes its trimmed head itself: RetokenizingDrafter(..., trimmed=...)",
            )
        if isinstance(drafter, RetokenizingDrafter):
            drafter.check_target(target)
        return drafter

    def new_head(self) -> DraftHead:
        """A head like the drafter's, that shares no request with it."""
        if self._trimmed is None or not isinstance(self.drafter, IndependentDrafter):
            raise InputError("There is no artifact to make another head from", expected="a decoder with trimmed=")
        return self._trimmed.head_for(self.drafter.loaded, n_target=self.target.n_target)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        params: SamplingParams | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        generator: torch.Generator | None = None,
        ignore_stop_ids: bool = False,
        measure: bool = False,
    ) -> Generation:
        """Decode one request to its end. Arguments as in `stream`."""
        prompt_ids = self.encode(prompt)
        steps = self.stream(
            prompt_ids,
            max_new_tokens=max_new_tokens,
            params=params,
            stop=stop,
            seed=seed,
            generator=generator,
            ignore_stop_ids=ignore_stop_ids,
            measure=measure,
        )
        return Generation.from_steps(list(steps), n_prompt=len(prompt_ids))

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        params: SamplingParams | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        generator: torch.Generator | None = None,
        ignore_stop_ids: bool = False,
        measure: bool = False,
        observer: BlockObserver | None = None,
    ) -> Iterator[Step]:
        """Decode one request, one `Step` a target pass. The decoder serves one stream at a time.

        Args:
            prompt: text as it is; token ids; or chat messages, which go through the model's chat template.
            max_new_tokens: at most this many tokens of output.
            params: temperature and filters; the target's own law (temperature 1) by default.
            stop: strings that end the output; they are not part of the text.
            seed: makes the output reproducible on this machine; None draws a new one.
            generator: used instead of `seed`, on the target's device.
            ignore_stop_ids: go on after end-of-sequence tokens, for benchmarks of fixed length.
            measure: also compute the exact acceptance probability β at each tested position.
            observer: is shown the laws behind every block, such as an `outlex.decode.token_trace.TokenTrace`.

        Raises:
            InputError: an empty prompt, one that leaves no room in the context, ids out of range.
            NumericalError: logits hold NaN or infinity.
        """
        prompt_ids = self.encode(prompt)
        if max_new_tokens < 1:
            raise InputError("Nothing to generate", got=f"max_new_tokens={max_new_tokens}", expected="an integer >= 1")
        if generator is None:
            generator = seeded_generator(seed, self.target.device)
        text = TextStream(self.loaded.decode, stop)
        stop_ids = frozenset() if ignore_stop_ids else self.loaded.stop_ids
        limit = min(max_new_tokens, self.target.max_length - len(prompt_ids))
        return self._stream(
            prompt_ids, params or SamplingParams(), generator, text, stop_ids, limit, max_new_tokens, measure, observer
        )

    @torch.inference_mode()
    def _stream(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        generator: torch.Generator,
        text: TextStream,
        stop_ids: frozenset[int],
        limit: int,
        max_new_tokens: int,
        measure: bool,
        observer: BlockObserver | None,
    ) -> Iterator[Step]:
        clock = Stopwatch(self.target.device, synchronize=measure)
        blocks = BlockDecoder(
            target=self.target,
            drafter=self.drafter,
            proposal=self.proposal,
            draft_len=self.draft_len,
            params=params,
            randomness=GeneratorRandomness(generator),
            prompt_ids=prompt_ids,
            clock=clock,
            measure=measure,
            observer=observer,
        )
        n_left, reason = limit, None
        while reason is None:
            block = blocks.next_block(n_left)
            for n, token_id in enumerate(block.token_ids, start=1):
                stopped = token_id in stop_ids
                if text.push(token_id) or stopped:
                    block, reason = block.cut(n), "stop"
                    break
            n_left -= len(block.token_ids)
            if reason is None and n_left == 0:
                reason = "length" if limit == max_new_tokens else "context"
            piece = text.take() + (text.finish() if reason else "")
            yield Step(text=piece, block=block, time=clock.lap(), finish_reason=reason)
            clock.start()

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, checked to fit the target."""
        if isinstance(prompt, str):
            ids = self.loaded.encode(prompt)
        elif all(isinstance(part, Mapping) for part in prompt):
            ids = self.loaded.encode_chat(list(prompt)) if prompt else []  # type: ignore[arg-type]
        else:
            ids = list(prompt)  # type: ignore[arg-type]
        if not ids:
            raise InputError("The prompt is empty", expected="at least one token", next_step="pass some text")
        wrong = [i for i in ids if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < self.target.n_target]
        if wrong:
            raise InputError(
                "The prompt holds ids that are not tokens of the target",
                got=wrong[:3],
                expected=f"integers from 0 to {self.target.n_target - 1}",
            )
        if len(ids) >= self.target.max_length:
            raise InputError(
                "The prompt leaves no room in the target's context",
                got=f"{len(ids)} tokens",
                expected=f"fewer than {self.target.max_length}",
                next_step="shorten the prompt or take a target with a longer context",
            )
        return ids
