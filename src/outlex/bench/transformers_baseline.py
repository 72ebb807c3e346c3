"""transformers' own `generate`, alone and with each of its ways to draft, as a method to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.bench.rows import MethodInfo, Run
from outlex.errors import InputError
from outlex.models.tokenizer import quiet_transformers

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel
    from outlex.sampling import SamplingParams

__all__ = ["ALONE", "TransformersMethod"]

# ways that need no drafter: tokens one by one, n-grams of the text so far, the target's own first half of layers
ALONE = ("transformers-ar", "transformers-lookup", "transformers-early-exit")


class TransformersMethod:
    """`model.generate(…, assistant_model=…)` under the conditions of our own loop.

    Same models, same stop tokens, same law; a constant number of draft tokens, and no early end of a draft
    where the drafter is unsure. The law is told in full, and the checkpoints' own generation configs are out
    of the way while `generate` runs: they may hold filters and penalties, and it would fill every gap from
    them.

    One thing is done in transformers' favour. It hands the LM head a slice `hidden[:, -1:]` whose strides are those of
    the longer tensor, and torch 2.13 on CPU answers by copying the whole weight of the head: 1.8 s for 151,936 × 896 in
    bfloat16, at every prefill, and assisted generation prefills the assistant at every round. A hook hands the head a
    plain copy of that slice instead. As it is, `generate` is several times slower on such machines.

    Args:
        target: the model.
        drafter: the assistant model; None generates without.
        draft_len: γ.
        stop_ids: tokens that end the output; empty goes on to the end.
        name: of the method, one of `ALONE` if there is no drafter.

    Raises:
        InputError: the two heads are not equally wide, which `generate` cannot verify.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafter: LanguageModel | None,
        *,
        draft_len: int,
        stop_ids: frozenset[int],
        name: str,
    ) -> None:
        if drafter is not None and drafter.n_rows != target.n_rows:
            raise InputError(
                "transformers cannot use this drafter: it wants two heads of one width",
                got=f"{target.n_rows} rows (target) and {drafter.n_rows} rows (drafter)",
                expected="the same number of rows",
                next_step=f"leave {name} out of --baselines; outlex's own loop takes such pairs",
            )
        self._target: Any = target.model
        self._drafter: Any = None if drafter is None else drafter.model
        self._draft_len = draft_len
        self._stop_ids = sorted(stop_ids)
        self._device = target.device
        self._drafts_itself: dict[str, int] = {}
        drafts = "" if drafter is None else f", {draft_len} draft tokens from {drafter.name}"
        if name == "transformers-lookup":
            self._drafts_itself = {"prompt_lookup_num_tokens": draft_len}
            drafts = f", {draft_len} draft tokens by prompt lookup"
        elif name == "transformers-early-exit":
            n_layers = max(1, target.model.config.get_text_config().num_hidden_layers // 2)
            self._drafts_itself = {"assistant_early_exit": n_layers}
            drafts = f", {draft_len} draft tokens from the target's first {n_layers} layers (early exit)"
        self.info = MethodInfo(
            name=name,
            description=f"transformers' generate{drafts}",
            n_draft=None if drafter is None else drafter.n_rows,
        )

    def run(self, prompt_ids: list[int], params: SamplingParams, *, max_new_tokens: int, seed: int) -> Run:
        """Generate once. transformers draws from torch's global generators: they are put back afterwards."""
        ids = torch.tensor([prompt_ids], device=self._device)
        passes = _PassCounter()
        with quiet_transformers(), self._clean_configs(), self._plain_head_inputs(), _seeded(seed, self._device):
            out: Tensor = self._target.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._generation_config(params, max_new_tokens),
                streamer=passes,
                **({} if self._drafter is None else {"assistant_model": self._drafter}),
            )
        return Run(token_ids=tuple(out[0, len(prompt_ids) :].tolist()), n_passes=passes.n_passes)

    def _generation_config(self, params: SamplingParams, max_new_tokens: int) -> Any:
        from transformers import GenerationConfig

        law: dict[str, Any] = {}
        if not params.greedy:
            law = {
                "temperature": float(params.temperature),
                "top_k": params.top_k,
                "top_p": float(params.top_p),
            }
            if params.min_p:
                law["min_p"] = params.min_p
        return GenerationConfig(
            do_sample=not params.greedy,
            repetition_penalty=float(params.repetition_penalty),
            max_new_tokens=max_new_tokens,
            eos_token_id=self._stop_ids or None,
            pad_token_id=self._stop_ids[0] if self._stop_ids else 0,
            **self._drafts_itself,
            **law,
        )

    @contextmanager
    def _clean_configs(self) -> Iterator[None]:
        from transformers import GenerationConfig

        # `generate` reads how to draft from the assistant's own config and from nowhere else
        drafting = GenerationConfig(
            num_assistant_tokens=self._draft_len,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )
        with ExitStack() as stack:
            own = drafting if self.info.name == "transformers-early-exit" else GenerationConfig()
            for model, config in ((self._target, own), (self._drafter, drafting)):
                if model is not None:
                    stack.callback(setattr, model, "generation_config", model.generation_config)
                    model.generation_config = config
            yield

    @contextmanager
    def _plain_head_inputs(self) -> Iterator[None]:
        def plain(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0].clone(memory_format=torch.contiguous_format), *args[1:])

        models = [model for model in (self._target, self._drafter) if model is not None]
        hooks = [model.get_output_embeddings().register_forward_pre_hook(plain) for model in models]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _PassCounter:
    """A streamer: `generate` hands it the prompt, then the new tokens of each target pass."""

    def __init__(self) -> None:
        self.n_passes = -1

    def put(self, token_ids: Tensor) -> None:
        del token_ids
        self.n_passes += 1

    def end(self) -> None:
        pass


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
