"""`model.generate(..., custom_generate=speculative(...))`: our loop in the place of transformers' own.

transformers prepares everything as usual (generation config, logits processors, stopping criteria) and calls the hook
instead of its own decoding method. The hook drafts with a trimmed or fitted head and any proposal, and gives back what
`generate` would.

One thing has to be known of transformers 5.23: it does not hand `streamer=` on to a callable. Give the streamer to
`speculative` instead, or use an exported directory, which gets every argument.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.decode.block import BlockDecoder
from outlex.decode.decoder import SpeculativeDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.drafters.artifacts import DraftHeadArtifact, load_draft_head
from outlex.errors import InputError, ModelError, OutlexError
from outlex.models.language_model import LanguageModel
from outlex.models.load import load_model
from outlex.models.tokenizer import load_tokenizer
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.transformers_hook.request import check_request, params_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from outlex.proposals.base import Proposal

__all__ = ["Speculative", "speculative"]


class Speculative:
    """A decoding method for `custom_generate`; `speculative` makes one. It serves one call at a time.

    Args: as in `speculative`, with the artifact loaded.
    """

    def __init__(
        self,
        drafter: str | os.PathLike[str] | LanguageModel | PreTrainedModel | None,
        *,
        trimmed: DraftHeadArtifact | None,
        proposal: Proposal | None,
        draft_len: int,
        tokenizer: PreTrainedTokenizerBase | None,
        streamer: Any,
        seed: int | None,
    ) -> None:
        self._drafter = drafter
        self._trimmed = trimmed
        self._proposal = proposal
        self._draft_len = draft_len
        self._tokenizer = tokenizer
        self._streamer = streamer
        self._seed = seed
        self._ready: list[SpeculativeDecoder] = []  # of the last model; copies share it

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Any = (),
        stopping_criteria: Any = None,
        generation_config: Any = None,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """What `generate` calls, everything prepared.

        Args:
            model: the target.
            input_ids: the prompt, int64 [1, n].
            logits_processor, stopping_criteria, generation_config, synced_gpus, streamer: as transformers made them.
                Stopping criteria see every token, and no scores.
            model_kwargs: what a forward of the model would get.

        Returns:
            Prompt and output, int64 [1, m]; a `GenerateDecoderOnlyOutput` if `return_dict_in_generate`.

        Raises:
            InputError: something that our loop does not do; the message names it.
            MismatchError: target, drafter and artifact do not belong together.
        """
        prompt = check_request(model, input_ids, generation_config, model_kwargs, synced_gpus=synced_gpus)
        params = params_of(logits_processor, do_sample=bool(generation_config.do_sample))
        decoder = self._decoder_for(model)
        if streamer is None and self._streamer is not None:
            streamer = self._streamer
            streamer.put(input_ids.cpu())  # transformers does so for a streamer that it was given itself
        blocks = BlockDecoder(
            target=decoder.target,
            drafter=decoder.drafter,
            proposal=decoder.proposal,
            draft_len=decoder.draft_len,
            params=params,
            randomness=GeneratorRandomness(seeded_generator(self._next_seed(), decoder.target.device)),
            prompt_ids=decoder.encode(prompt),
            clock=Stopwatch(decoder.target.device, synchronize=False),
            measure=False,
        )
        sequence = input_ids
        stopped = False
        while not stopped:
            emitted = blocks.next_block(int(generation_config.max_length) - sequence.shape[1]).token_ids
            start = sequence.shape[1]
            for token_id in emitted:
                sequence = torch.cat([sequence, sequence.new_tensor([[token_id]])], dim=-1)
                # criteria watch for the one token that ends the text: each has to be seen as the last one
                stopped = sequence.shape[1] >= generation_config.max_length or _says_stop(stopping_criteria, sequence)
                if stopped:
                    break
            if streamer is not None:
                streamer.put(sequence[0, start:].cpu())
        if streamer is not None:
            streamer.end()
        if not generation_config.return_dict_in_generate:
            return sequence
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=sequence)

    def with_request(self, *, streamer: Any, seed: int | None) -> Speculative:
        """The same models with another streamer and seed."""
        own = copy.copy(self)
        own._streamer, own._seed = streamer, seed
        return own

    def _next_seed(self) -> int:
        """The seed that was given; else one from torch's global generator, so that `set_seed` repeats an output."""
        return int(torch.randint(2**62, ())) if self._seed is None else self._seed

    def _decoder_for(self, model: PreTrainedModel) -> SpeculativeDecoder:
        if not self._ready or self._ready[0].loaded.model is not model:
            target = _as_language_model(model, self._tokenizer)
            self._ready[:] = [
                SpeculativeDecoder(
                    target,
                    self._load_drafter(target),
                    trimmed=self._trimmed,
                    proposal=self._proposal,
                    draft_len=self._draft_len,
                )
            ]
        return self._ready[0]

    def _load_drafter(self, target: LanguageModel) -> LanguageModel:
        drafter = self._drafter
        if drafter is None and self._trimmed is not None:
            drafter = self._trimmed.base_source
        if isinstance(drafter, (str, os.PathLike)):
            return load_model(drafter, dtype=target.dtype, device=target.device, progress=False)
        if isinstance(drafter, LanguageModel):
            return drafter
        assert drafter is not None  # speculative() checks
        return _as_language_model(drafter, None)


def _says_stop(criteria: Any, sequence: Tensor) -> bool:
    return bool(criteria) and bool(criteria(sequence, None).all())


def _as_language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> LanguageModel:
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    if tokenizer is None:
        try:
            tokenizer = load_tokenizer(name, progress=False)
        except OutlexError as error:
            raise ModelError(
                "The tokenizer of a model inside generate cannot be found",
                got=f"{name}: {error.what}",
                next_step="pass it: speculative(..., tokenizer=tokenizer); give a drafter by name or by load_model",
            ) from error
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name.rstrip("/").rpartition("/")[2],
        source=name,
        dtype=model.dtype,
        device=model.device,
    )


def speculative(
    drafter: str | os.PathLike[str] | LanguageModel | PreTrainedModel | None = None,
    *,
    trimmed: str | os.PathLike[str] | DraftHeadArtifact | None = None,
    proposal: Proposal | None = None,
    draft_len: int = 4,
    tokenizer: PreTrainedTokenizerBase | None = None,
    streamer: Any = None,
    seed: int | None = None,
) -> Speculative:
    """Speculative decoding for `model.generate(**inputs, custom_generate=speculative(...))`.

    The law of the text is the model's own, whatever drafts. Drafter and artifact are loaded with the first call.

    Args:
        drafter: what `load_model` takes, a `LanguageModel`, or a transformers model; None takes the one that the
            artifact was made for.
        trimmed: directory of `outlex trim`, `fit-head` or `fit`, or the artifact.
        proposal: q ↦ q̃; by default the artifact's, else TLI.
        draft_len: γ.
        tokenizer: the target's; by default it is looked for where the model came from.
        streamer: as `generate` takes it; transformers does not hand its own on to callables.
        seed: repeats a sampled output; by default torch's global generator decides.

    Raises:
        InputError: neither drafter nor artifact.
        ArtifactError: the artifact is missing or damaged.
    """
    artifact = load_draft_head(trimmed) if isinstance(trimmed, (str, os.PathLike)) else trimmed
    if drafter is None and artifact is None:
        raise InputError(
            "There is nothing to draft with",
            expected="a drafter, or the directory of a trimmed one",
            next_step='speculative("qwen05"), or speculative(trimmed="qwen05-16k")',
        )
    return Speculative(
        drafter,
        trimmed=artifact,
        proposal=proposal,
        draft_len=draft_len,
        tokenizer=tokenizer,
        streamer=streamer,
        seed=seed,
    )
