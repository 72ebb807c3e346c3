"""The reference law: the target's own forward pass in float32, after every text that an engine has written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from outlex.errors import NumericalError
from outlex.models.output_head import output_head
from outlex.sampling import SamplingParams, penalize_repetition

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["ModelReference", "Reference", "law_logits", "penalized", "prefixes_of"]

TokenIds = tuple[int, ...]


class Reference(Protocol):
    """Logits after a prompt and some tokens."""

    @property
    def n_target(self) -> int:
        """Width."""

    def logits(self, prompt_ids: Sequence[int], prefixes: Sequence[TokenIds]) -> Tensor:
        """Row i is about the token that follows `prompt_ids` and `prefixes[i]`: [n, n_target]."""


def prefixes_of(outputs: Sequence[TokenIds], *, chunk: int) -> Iterator[list[TokenIds]]:
    """What came before each token of some outputs for one prompt, each text once, neighbours together.

    Args:
        outputs: token ids.
        chunk: texts at a time.
    """
    distinct = sorted({ids[:n] for ids in outputs for n in range(len(ids))})
    for start in range(0, len(distinct), chunk):
        yield distinct[start : start + chunk]


def law_logits(
    reference: Reference, prompt_ids: Sequence[int], prefixes: Sequence[TokenIds], params: SamplingParams
) -> Tensor:
    """The reference's logits after the repetition penalty, [n, n_target].

    Raises:
        NumericalError: they hold NaN: nothing could be compared, and every engine would pass.
    """
    logits = penalized(reference.logits(prompt_ids, prefixes), prompt_ids, prefixes, params)
    if bool(logits.isnan().any()):
        raise NumericalError(
            "The reference's logits hold NaN",
            got=f"after a prompt of {len(prompt_ids)} tokens",
            expected="numbers",
            next_step="check the checkpoint given as --target: its float32 forward is broken",
        )
    return logits


def penalized(
    logits: Tensor, prompt_ids: Sequence[int], prefixes: Sequence[TokenIds], params: SamplingParams
) -> Tensor:
    """The logits [n, n_target] after the repetition penalty, which reads prompt and output."""
    if params.repetition_penalty == 1.0:
        return logits
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for row, prefix in enumerate(prefixes):
        seen[row, [*prompt_ids, *prefix]] = True
    return penalize_repetition(logits, seen.to(logits.device), params.repetition_penalty)


class ModelReference:
    """A loaded model, read in batches (protocol `Reference`).

    The prompt is read once and kept; texts that begin alike are read together, so that a text that many outputs share
    costs one forward. Padding stands on the right, where a causal model does not see it.

    Args:
        loaded: the model, in float32 where it is the reference.
        n_target: width of the rows that are returned: a narrower head gets -inf, a wider one is cut. Default: its own.
    """

    def __init__(self, loaded: LanguageModel, *, n_target: int | None = None) -> None:
        self.loaded = loaded
        self._head = output_head(loaded)
        self._body: Any = loaded.model.get_decoder()
        self._n_embeddings = int(loaded.model.get_input_embeddings().weight.shape[0])
        self._n_target = n_target or self._head.n_rows
        self._prompts: dict[TokenIds, tuple[Any, Tensor]] = {}

    @property
    def n_target(self) -> int:
        return self._n_target

    @torch.inference_mode()
    def logits(self, prompt_ids: Sequence[int], prefixes: Sequence[TokenIds]) -> Tensor:
        cache, last = self._prompt(tuple(prompt_ids))
        leaves = _leaves(prefixes)
        hidden = [last]
        row_of: dict[TokenIds, int] = {(): 0}
        if leaves:
            width = max(map(len, leaves))
            ids = torch.tensor([[*leaf, *[0] * (width - len(leaf))] for leaf in leaves], device=self.loaded.device)
            out = self._body(
                input_ids=torch.where(ids < self._n_embeddings, ids, 0),
                past_key_values=_repeated(cache, len(leaves)),
                position_ids=torch.arange(width, device=ids.device).unsqueeze(0) + len(prompt_ids),
                use_cache=True,
            )
            hidden.append(out.last_hidden_state.flatten(0, 1))
            for i, leaf in enumerate(leaves):
                row_of.update({leaf[: n + 1]: 1 + i * width + n for n in range(len(leaf))})
        wanted = torch.tensor([row_of[prefix] for prefix in prefixes], device=self.loaded.device)
        return self._as_wide(self._head.logits(torch.cat(hidden)[wanted]))

    def _as_wide(self, logits: Tensor) -> Tensor:
        missing = self._n_target - logits.shape[-1]
        if missing <= 0:
            return logits[:, : self._n_target]
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)

    def _prompt(self, prompt_ids: TokenIds) -> tuple[Any, Tensor]:
        """Cache after the prompt, and its last hidden state [1, d]."""
        if prompt_ids not in self._prompts:
            from transformers import DynamicCache

            cache = DynamicCache(config=self.loaded.model.config)
            ids = torch.tensor([prompt_ids], device=self.loaded.device)
            out = self._body(
                input_ids=torch.where(ids < self._n_embeddings, ids, 0), past_key_values=cache, use_cache=True
            )
            self._prompts[prompt_ids] = cache, out.last_hidden_state[0, -1:]
        return self._prompts[prompt_ids]


def _repeated(cache: Any, n: int) -> Any:
    import copy

    own = copy.deepcopy(cache)
    own.batch_repeat_interleave(n)
    return own


def _leaves(prefixes: Sequence[TokenIds]) -> list[TokenIds]:
    """Those that no other one continues; the empty one never."""
    ordered = sorted(set(prefixes))
    followers = [*ordered[1:], ()]
    return [own for own, after in zip(ordered, followers, strict=True) if own and after[: len(own)] != own]
