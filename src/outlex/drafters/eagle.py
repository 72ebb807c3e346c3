"""EAGLE drafters (protocol `Drafter`): the network on the target's hidden states, and a draft head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.eagle.checkpoint import EagleCheckpoint
from outlex.eagle.runner import EagleRunner
from outlex.errors import InputError, MismatchError
from outlex.heads.linear import FullHead, LinearHead, StaticHead
from outlex.models.output_head import output_head
from outlex.models.runner import TargetRunner
from outlex.vocab.token_map import TokenMap

if TYPE_CHECKING:
    from outlex.drafters.artifacts import DraftHeadArtifact
    from outlex.heads.base import DraftHead
    from outlex.models.language_model import LanguageModel

__all__ = ["EagleDrafter", "reader_of", "whole_head_of"]


class EagleDrafter:
    """Drafts from the target's hidden states.

    Args:
        checkpoint: the network; it is moved to the target's device and cast to its dtype.
        target: the loaded model that it drafts for. It lends its embedding and head where the checkpoint has none.
        head: another draft head than the checkpoint's, see also `with_head`.
        name: for reports.
        source: directory of the checkpoint; "" if it was made in memory.

    Raises:
        MismatchError: it was made for another target.
    """

    def __init__(
        self,
        checkpoint: EagleCheckpoint,
        target: LanguageModel,
        *,
        head: DraftHead | None = None,
        name: str = "eagle",
        source: str = "",
    ) -> None:
        config = checkpoint.config
        config.target.check(target)
        self.name = name
        self.source = source
        self.checkpoint = checkpoint
        self.target = target
        self.feature_layers = config.feature_layers
        self.max_length = min(config.max_length, target.max_length)
        checkpoint.module.to(device=target.device, dtype=target.dtype)
        embedding: Tensor = target.model.get_input_embeddings().weight
        if checkpoint.embedding is not None:
            embedding = checkpoint.embedding
        self._embedding = embedding.detach().to(target.device, target.dtype)
        # the whole head that others are cut from or fitted to: the drafter's own, or the target's
        self.full_head = output_head(target)
        if checkpoint.head is not None:
            self.full_head = LinearHead(weight=checkpoint.head.to(target.device, target.dtype))
        self.head = head or self._own_head(checkpoint.draft_to_target, n_target=target.n_rows)
        self.runner = EagleRunner(checkpoint.module)
        self._n_verified = 0
        self._state: Tensor | None = None  # of the last position, for the step that follows it

    def _own_head(self, ids: Tensor | None, *, n_target: int) -> DraftHead:
        if ids is None:
            return FullHead(self.full_head, n_target=n_target)
        ids = ids.to(self._embedding.device)
        rows = self.full_head if self.checkpoint.head is not None else self.full_head.rows(ids)
        return StaticHead(rows, TokenMap(ids, n_draft=len(ids), n_target=n_target), name=f"own-{len(ids)}")

    @property
    def n_rows(self) -> int:
        """Tokens that the checkpoint's own head scores, or the target's where it has none."""
        ids = self.checkpoint.draft_to_target
        return self.full_head.n_rows if ids is None else len(ids)

    @property
    def takes_heads(self) -> bool:
        """Whether trimmed and fitted heads can be made of `full_head`: it has a row for each of the target's tokens."""
        return self.checkpoint.head is None or self.checkpoint.draft_to_target is None

    def with_head(self, artifact: DraftHeadArtifact) -> EagleDrafter:
        """The same network with a trimmed or fitted head; both can be used at the same time.

        Raises:
            MismatchError: the head was made for other weights, or this drafter's own head covers a part of the
                vocabulary, so that other heads cannot be cut from it.
        """
        if not self.takes_heads:
            raise MismatchError(
                f"{self.name} has a head of its own for a part of the vocabulary, which takes no other head",
                got=artifact.name,
                expected="a drafter that shares the target's head",
                next_step="cut the drafter's own head instead: outlex convert DRAFTER --retrim TOKENS",
            )
        head = artifact.head_from(self.full_head, n_target=self.target.n_rows)
        return EagleDrafter(self.checkpoint, self.target, head=head, name=self.name, source=self.source)

    @property
    def body_bytes(self) -> int:
        """Bytes of the network that one draft step reads."""
        # EAGLE-3 fuses features once a block, not in every step
        skipped = "fc." if self.checkpoint.config.kind == "eagle3" else None
        parts = self.checkpoint.module.named_parameters()
        return sum(part.nbytes for name, part in parts if skipped is None or not name.startswith(skipped))

    @property
    def bytes_per_step(self) -> int:
        return self.body_bytes + self.head.bytes_per_step

    def begin(self) -> None:
        self.runner.reset()
        self._n_verified = 0
        self._state = None

    def advance(self, verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
        # Positions of accepted drafts hold keys and values of the network's own states. The target's states are at
        # hand now and better, so these positions are computed again.
        del n_accepted
        assert features is not None  # `feature_layers` is not empty
        self.runner.rollback(self._n_verified)
        self._n_verified += verified_ids.shape[0]
        return self._forward(verified_ids, self.checkpoint.module.fuse(features))

    def step(self, draft_id: Tensor) -> Tensor:
        assert self._state is not None  # `advance` comes first
        return self._forward(draft_id, self._state)

    def _forward(self, ids: Tensor, states: Tensor) -> Tensor:
        for_head, self._state = self.runner.forward(F.embedding(ids, self._embedding), states)
        return for_head

    @torch.inference_mode()
    def states(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Tensor:
        """What the head scores at the first draft of a block, at every position of a text that stands: [n − 1, d].

        Row i is the state of the pair (token i + 1, the target's state at token i), which predicts token i + 2; the
        last row predicts the response's last token. Reads the text with the target, which forgets its context.

        Raises:
            InputError: a prompt of one token, which leaves no state before the response's first token.
        """
        if len(prompt_ids) < 2:
            raise InputError(
                f"{self.name} reads pairs of a token and the target's state before it, so prompts need two tokens",
                got=f"{len(prompt_ids)} tokens",
                expected="at least 2",
                next_step="leave this prompt out, or put it through the chat template",
            )
        ids = torch.tensor([*prompt_ids, *response_ids[:-1]], device=self.target.device)
        features = TargetRunner(self.target).forward(ids, n_logits=1, feature_layers=self.feature_layers).features
        assert features is not None  # `feature_layers` is not empty
        embedded = F.embedding(ids[1:], self._embedding)
        return self.checkpoint.module.unroll(embedded[None], features[None, :-1], n_steps=1)[0][0]


def reader_of(drafter: LanguageModel | EagleDrafter) -> LanguageModel:
    """The model whose tokens a drafter reads: an EAGLE drafter has its target's tokenizer, and none of its own."""
    return drafter.target if isinstance(drafter, EagleDrafter) else drafter


def whole_head_of(drafter: LanguageModel | EagleDrafter) -> LinearHead:
    """The head that others are cut from or fitted to, see `output_head`."""
    return drafter.full_head if isinstance(drafter, EagleDrafter) else output_head(drafter)
