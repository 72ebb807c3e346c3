"""transformers' `generate` as a black box: with an assistant model, with prompt lookup, or alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from outlex.bench.transformers_baseline import TransformersMethod

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel
    from outlex.sampling import SamplingParams

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """`model.generate`, one output at a time, as assisted generation wants it (protocols `Engine` and `CountsDrafts`).

    The law is told in full and nothing is read from the checkpoint's generation config; no stop token ends an output.

    Args:
        target: the model.
        drafter: the assistant model, if any.
        prompt_lookup: draft by looking the last tokens up in the prompt instead.
        draft_len: γ.

    Raises:
        InputError: the two heads are not equally wide.
    """

    def __init__(
        self, target: LanguageModel, drafter: LanguageModel | None, *, prompt_lookup: bool = False, draft_len: int = 4
    ) -> None:
        from transformers import __version__

        method = _PromptLookup if prompt_lookup else TransformersMethod
        self._method = method(target, drafter, draft_len=draft_len, stop_ids=frozenset(), name="transformers")
        drafted = "prompt lookup" if prompt_lookup else f"assistant {drafter.name}" if drafter else "no assistant"
        self.name = f"transformers {__version__}: {target.name}, {drafted}"
        self.dtype = str(target.dtype).removeprefix("torch.")
        self.n_accepted = 0

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        outputs = []
        for own in range(seed, seed + n_samples):
            run = self._method.run(list(prompt_ids), params, max_new_tokens=max_new_tokens, seed=own)
            outputs.append(run.token_ids)
            self.n_accepted += len(run.token_ids) - (run.n_passes or 0)
        return outputs


class _PromptLookup(TransformersMethod):
    """Drafts are copied from the prompt."""

    def _generation_config(self, params: SamplingParams, max_new_tokens: int) -> Any:
        config = super()._generation_config(params, max_new_tokens)
        config.prompt_lookup_num_tokens = self._draft_len
        return config
