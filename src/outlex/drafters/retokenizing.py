"""A drafter with another tokenizer: a smaller model that is shown the target's text in its own tokens.

    target's text       "un" "believ" "able"            verified, in the target's tokens
    shown to drafter    "unbel" "iev" "able"            the same text, as the drafter's tokenizer would spell it
    drafts              " in" " the"                    drafter tokens that are target tokens too
    next verified       " in" "side"                    one accepted, one recovered
    shown to drafter    … " inside"                     spelled anew: its cache goes back to before " in"

Inside a block a draft goes into the drafter's context as the token that was drawn. What the drafter is shown decides
how well it drafts, and never the law of the output. Prompts arrive as the target's own tokens, its chat template
included, and the drafter sees that text, not a template of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from outlex.drafters.trimmed import TrimmedDrafter
from outlex.errors import InputError, MismatchError
from outlex.heads.linear import StaticHead
from outlex.models.output_head import output_head
from outlex.models.runner import BodyRunner
from outlex.proposals.respelled import Respelled
from outlex.vocab.retokenizer import Retokenizer, first_tokens
from outlex.vocab.token_bytes import shared_tokens
from outlex.vocab.token_map import TokenMap
from outlex.vocab.tokenizer_facts import facts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from outlex.drafters.artifacts import DraftHeadArtifact
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead
    from outlex.models.language_model import LanguageModel

__all__ = ["RetokenizingDrafter", "TextSource", "retokenized_head"]

_RESERVE = 64  # places of the drafter's context that are kept free for a block's drafts
_SPARE = 16  # a sliding window forgets: go back so much further than needed, to be able to go back again


class TextSource(Protocol):
    """What has to be known of a target to read its text; a `LanguageModel` is one."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def n_rows(self) -> int:
        """Of its LM head, padding included."""


class RetokenizingDrafter:
    """Drives a model with its own tokenizer as drafter (protocol `Drafter`).

    Tokens are shared by their bytes (`outlex.vocab.token_bytes.shared_tokens`). A text that is longer than the
    drafter's context is seen from some later place on.

    Args:
        target: the model it drafts for.
        drafter: the model.
        trimmed: a sub-vocabulary of the drafter's tokens; its whole head by default.

    Raises:
        MismatchError: no shared token, or `trimmed` was made for another drafter.
        InputError: `trimmed` is a fitted head, which speaks of the target's tokens.
    """

    feature_layers: tuple[int, ...] = ()
    max_length = sys.maxsize

    def __init__(self, target: TextSource, drafter: LanguageModel, *, trimmed: DraftHeadArtifact | None = None) -> None:
        self.name = drafter.name
        self.loaded = drafter
        facts, own = facts_of(target.tokenizer), facts_of(drafter.tokenizer)
        self._target_fingerprint, self._n_target = facts.fingerprint, target.n_rows
        shared = shared_tokens(facts, own, n_draft=drafter.n_rows, n_target=target.n_rows)
        if isinstance(trimmed, TrimmedDrafter):
            trimmed.vocab.check_tokenizer(own)
        self.head: DraftHead = retokenized_head(output_head(drafter), trimmed, shared=shared.to(drafter.device))
        self._own_ids: list[int] = shared.target_to_draft.tolist()
        self._text = Retokenizer(target.tokenizer, drafter.tokenizer)
        self._shared, self._tokenizers = shared, (target.tokenizer, drafter.tokenizer)
        self._rows = trimmed.vocab.draft_to_target if isinstance(trimmed, TrimmedDrafter) else None
        # where there is nothing to read, something must be
        self._filler = own.eos_id or 0
        self._body = BodyRunner(drafter)
        self._room = max(1, self._body.max_length - _RESERVE)
        window = getattr(drafter.model.config.get_text_config(), "sliding_window", None)
        self._spare = 0 if window is None else _SPARE
        self.begin()

    def respelled(self) -> Respelled:
        """The proposal that also draws what only the drafter has, as the target would begin to spell it."""
        first_ids = first_tokens(*self._tokenizers, shared=self._shared)
        if self._rows is not None:
            first_ids = first_ids[self._rows]
        return Respelled(first_ids=first_ids.to(self.loaded.device), n_target=self._n_target)

    @property
    def bytes_per_step(self) -> int:
        return self._body.bytes_per_step + self.head.bytes_per_step

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What the drafter's cache holds, in its own tokens."""
        return tuple(self._cached)

    def check_target(self, target: LanguageModel) -> None:
        """Check that this drafter was made for `target`.

        Raises:
            MismatchError: another tokenizer, or a head of another width.
        """
        fingerprint = facts_of(target.tokenizer).fingerprint
        if (fingerprint, target.n_rows) != (self._target_fingerprint, self._n_target):
            raise MismatchError(
                "This drafter translates for another target",
                got=f"{target.name}: {target.n_rows} rows, tokenizer {fingerprint[:12]}",
                expected=f"{self._n_target} rows, tokenizer {self._target_fingerprint[:12]}",
                next_step="make it for this one: RetokenizingDrafter(target, drafter)",
            )

    def begin(self) -> None:
        self._text.reset()
        self._body.reset()
        self._cached: list[int] = []
        self._n_hidden = 0  # ids at the front of the text that no longer fit into the drafter's context
        self._n_firm = 0  # a sliding window cannot go back before this length

    def advance(self, verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
        del n_accepted, features  # which drafts stand is seen from the ids
        self._text.append(verified_ids.tolist())
        ids = self._text.ids or [self._filler]
        if len(ids) - self._n_hidden > self._room:
            # half of it at once: the new beginning is a new prefill
            self._n_hidden = len(ids) - (self._room + 1) // 2
        return self._show([*self._text.start_ids, *ids[self._n_hidden :]] if self._n_hidden else ids)

    def step(self, draft_id: Tensor) -> Tensor:
        # One wait for the device: a target token that the drafter lacks becomes several of its own.
        index = int(draft_id)
        own = self._own_ids[index]
        news = [own] if own >= 0 else self._text.of_token(index) or [self._filler]
        if len(self._cached) + len(news) > self._body.max_length:
            return self._show([*self._cached, *news][-((self._body.max_length + 1) // 2) :])
        return self._feed(news)

    def states(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Tensor:
        """Hidden states before each token of a response [n, d]: what `advance` would return token by token.

        One pass over the whole text has the states of all contexts that are spelled like the beginning of the whole.
        The others, after which the text goes on in the middle of a drafter's token, are read on their own, the last
        one first: then little of the cache has to be read again.

        Args:
            prompt_ids, response_ids: tokens of the target, at least one each.
        """
        parts = [list(prompt_ids), *([index] for index in response_ids[:-1])]
        self.begin()
        contexts = []
        for part in parts:
            self._text.append(part)
            contexts.append(self._text.ids or [self._filler])
        if max(map(len, contexts)) > self._room:
            self.begin()
            news = (torch.tensor(part, device=self._body.device) for part in parts)
            return torch.cat([self.advance(ids, n_accepted=0, features=None) for ids in news])
        whole = contexts[-1]
        hidden, _ = self._body.forward(torch.tensor(whole, device=self._body.device))
        self._cached = list(whole)
        rows = [
            hidden[len(ids) - 1 : len(ids)] if whole[: len(ids)] == ids else self._show(ids)
            for ids in reversed(contexts)
        ]
        return torch.cat(rows[::-1])

    def _show(self, ids: list[int]) -> Tensor:
        """Make the cache hold `ids`, and return the hidden state [1, d] at the last of them."""
        n_same = _n_common(self._cached, ids[:-1])
        n_kept = max(0, n_same - self._spare)
        if n_kept < len(self._cached):
            if n_kept < self._n_firm:
                self._body.reset()
                n_kept = 0
            self._body.rollback(n_kept)
            del self._cached[n_kept:]
            self._n_firm = n_kept if self._spare else 0
        return self._feed(ids[len(self._cached) :])

    def _feed(self, ids: list[int]) -> Tensor:
        hidden, _ = self._body.forward(torch.tensor(ids, device=self._body.device))
        self._cached += ids
        return hidden[-1:]


def retokenized_head(full: LinearHead, trimmed: DraftHeadArtifact | None, *, shared: TokenMap) -> StaticHead:
    """A drafter's head in the tokens of a target with another tokenizer.

    Args:
        full: the drafter's whole head.
        trimmed: a sub-vocabulary of the drafter's tokens; None for all of them.
        shared: drafter rows to the target's tokens, on the device of `full`.

    Raises:
        MismatchError: `trimmed` was cut from another head, or kept no token that the target has.
        InputError: `trimmed` is a fitted head.
    """
    if trimmed is None:
        return StaticHead(full, shared, name="untrimmed")
    if not isinstance(trimmed, TrimmedDrafter):
        raise InputError(
            "A fitted head cannot be used with a drafter that has another tokenizer",
            got=trimmed.name,
            expected="a trimmed drafter, or its whole head",
            next_step="trim the drafter with `outlex trim`, or leave the head out",
        )
    head = trimmed.head_from(full, n_target=shared.n_draft)
    ids = shared.to_target(trimmed.vocab.draft_to_target.to(shared.device))
    if not bool((ids >= 0).any()):
        raise MismatchError(
            "The trimmed drafter kept no token that the target has",
            got=f"{trimmed.n_draft} rows",
            expected="at least one shared token",
            next_step="trim again with more rows",
        )
    token_map = TokenMap(ids, n_draft=trimmed.n_draft, n_target=shared.n_target)
    return StaticHead(head.linear, token_map, name=head.name)


def _n_common(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:  # nearly always, and quicker than to look one by one
        return n
    return next(i for i in range(n) if a[i] != b[i])
