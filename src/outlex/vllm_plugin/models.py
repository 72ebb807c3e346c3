"""The draft model classes: vLLM's own, with another head and another `compute_logits`. vLLM imports this module.

A trimmed head is a `ParallelLMHead` of k rows, so that vLLM quantises nothing, splits it over devices and multiplies by
it as it does with its own. A preview reads the drafter's own rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from vllm.logger import init_logger
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.gemma2 import Gemma2ForCausalLM
from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.utils import PPMissingLayer, maybe_prefix

from outlex.drafters import TrimmedDrafter
from outlex.heads.base import DraftHead
from outlex.proposals.base import DraftScores
from outlex.vllm_plugin.draft_head import fitted_weights, head_of_rows, proposal_for, read_served, what_is_void
from outlex.vllm_plugin.log_law import log_law

__all__ = [
    "OutlexGemma2ForCausalLM",
    "OutlexGemma3ForCausalLM",
    "OutlexLlamaForCausalLM",
    "OutlexQwen2ForCausalLM",
    "OutlexQwen3ForCausalLM",
]

_logger = init_logger("vllm.outlex")


class _OutlexDraft(nn.Module):
    """Stands before a stock class among the bases, and answers for its head."""

    # what the stock class makes
    model: Any
    lm_head: Any
    logits_processor: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        model_config, parallel_config = vllm_config.model_config, vllm_config.parallel_config
        self.n_target = int(model_config.hf_config.get_text_config().vocab_size)
        self.draft_dtype = model_config.head_dtype
        self.artifact = read_served(
            model_config.model,
            n_target=self.n_target,
            tensor_parallel_size=parallel_config.tensor_parallel_size,
            pipeline_parallel_size=parallel_config.pipeline_parallel_size,
        )
        speculative_config = vllm_config.speculative_config
        if speculative_config is not None:
            void = what_is_void(self.artifact, draft_sample_method=speculative_config.draft_sample_method)
            if void is not None:
                _logger.warning("outlex: %s", void)
        if isinstance(self.artifact, TrimmedDrafter):
            linear = self.artifact.linear
            self.draft_rows = ParallelLMHead(
                linear.n_rows,
                linear.weight.shape[1],
                bias=linear.bias is not None,
                prefix=maybe_prefix(prefix, "draft_rows"),
            )
            self.draft_logits = LogitsProcessor(linear.n_rows)
            self.lm_head = PPMissingLayer()  # the whole head is never loaded
        _logger.info("outlex: draft head %s, %d tokens of %d", self.artifact.name, self.artifact.n_draft, self.n_target)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The drafter's weights from the checkpoint, the head's from the artifact."""
        is_trimmed = isinstance(self.artifact, TrimmedDrafter)
        stock: Any = super()
        loaded: set[str] = stock.load_weights(fitted_weights(weights, n_rows=self.n_target, needs_head=not is_trimmed))
        if isinstance(self.artifact, TrimmedDrafter):
            linear = self.artifact.linear
            for name, tensor in (("weight", linear.weight), ("bias", linear.bias)):
                if tensor is not None:
                    parameter = getattr(self.draft_rows, name)
                    parameter.weight_loader(parameter, tensor)
                    loaded.add(f"draft_rows.{name}")
        return loaded

    def process_weights_after_loading(self) -> None:
        """vLLM calls it when all weights are where they stay."""
        embedding: Tensor = self.model.embed_tokens.weight
        self.proposal = proposal_for(self.artifact, embedding.device)
        if isinstance(self.artifact, TrimmedDrafter):
            vocab = self.artifact.vocab.with_target_width(self.n_target)
            self.token_map = vocab.token_map(embedding.device)
            return
        rows = getattr(self, "lm_head", None)  # Gemma 2 has none, its embeddings are its head
        stock = self.logits_processor
        self.preview: DraftHead = head_of_rows(
            self.artifact,
            embedding if rows is None else rows.weight,
            None if rows is None else getattr(rows, "bias", None),
            n_target=self.n_target,
            scale=stock.scale,
            softcap=stock.soft_cap or 0.0,
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """hidden states [n, d] -> rows [n, n_target] whose softmax is q̃, see `log_law`."""
        if not isinstance(self.artifact, TrimmedDrafter):
            return log_law(self.preview.score(hidden_states), self.proposal, dtype=self.draft_dtype)
        logits = self.draft_logits(self.draft_rows, hidden_states, self.draft_rows.bias)
        if logits is None:  # a device whose logits were sent to another one
            return None
        scores = DraftScores(
            logits=self.artifact.linear.finished(logits), token_map=self.token_map, hidden=hidden_states
        )
        return log_law(scores, self.proposal, dtype=self.draft_dtype)

    def get_top_tokens(self, hidden_states: Tensor) -> Tensor:
        """The most probable token of each row, int64 [n]: for `use_local_argmax_reduction`, which never sends logits
        from one device to another."""
        if not isinstance(self.artifact, TrimmedDrafter) or self.artifact.proposal is not None:
            logits = self.compute_logits(hidden_states)
            assert logits is not None
            return logits.argmax(-1)
        # scale and softcap change no order
        best: Tensor = self.draft_logits.get_top_tokens(self.draft_rows, hidden_states, self.draft_rows.bias)
        return self.token_map.to_target(best)


class OutlexLlamaForCausalLM(_OutlexDraft, LlamaForCausalLM):  # type: ignore[misc]
    """Llama, SmolLM2."""


class OutlexQwen2ForCausalLM(_OutlexDraft, Qwen2ForCausalLM):  # type: ignore[misc]
    """Qwen2, Qwen2.5."""


class OutlexQwen3ForCausalLM(_OutlexDraft, Qwen3ForCausalLM):  # type: ignore[misc]
    """Qwen3."""


class OutlexGemma2ForCausalLM(_OutlexDraft, Gemma2ForCausalLM):  # type: ignore[misc]
    """Gemma 2: its embeddings are its head, and its logits are capped."""


class OutlexGemma3ForCausalLM(_OutlexDraft, Gemma3ForCausalLM):  # type: ignore[misc]
    """Gemma 3, text only."""
