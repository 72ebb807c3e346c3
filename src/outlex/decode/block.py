"""One block after the other: draft γ tokens, verify them in one target pass, keep what stands.

context  … c            tokens emitted so far; the target's cache ends before `pending`
pending  [c]            emitted, not yet seen by the target (the whole prompt at first)
drafts   [d1 d2 d3]     drawn from q̃1 q̃2 q̃3
target   reads  c  d1 d2 d3
         gives  p1 p2 p3 p4     p_i is the law of what d_i stands for; p4 that of the bonus token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from outlex.decode.stopwatch import Stopwatch
from outlex.drafters.base import Drafter
from outlex.models.target import Target
from outlex.proposals.base import DraftScores, Proposal, ProposalLaw
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams, penalize_repetition, probabilities
from outlex.verify import overlap, verify
from outlex.vocab.shortlist import Shortlist
from outlex.vocab.token_map import TokenMap

__all__ = ["Block", "BlockDecoder", "BlockObserver"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one target pass emitted.

    Attributes:
        token_ids: the accepted drafts and the one token that follows them.
        kind: of the last token: "recovered" or "bonus" ("accepted" after `cut`).
        draft_ids: every draft, accepted or not; -1 is a token the target does not know.
        n_accepted: accepted drafts.
        overlaps: exact β at each tested position; empty unless measured.
    """

    token_ids: tuple[int, ...]
    kind: str
    draft_ids: tuple[int, ...]
    n_accepted: int
    overlaps: tuple[float, ...]

    @property
    def n_tested(self) -> int:
        """Drafts that met their test: the accepted ones, and the first rejected one."""
        return min(self.n_accepted + 1, len(self.draft_ids))

    def cut(self, n_tokens: int) -> Block:
        """The block as if its drafts had ended after `n_tokens` tokens, where a stop token or string ended the text.

        What was drafted and tested behind the end is text nobody asked for; it must not count as acceptance.
        """
        if n_tokens >= len(self.token_ids):
            return self
        return replace(
            self,
            token_ids=self.token_ids[:n_tokens],
            kind="accepted",
            draft_ids=self.draft_ids[:n_tokens],
            n_accepted=n_tokens,
            overlaps=self.overlaps[:n_tokens],
        )


class BlockObserver(Protocol):
    """Is shown what every block was decided by, before it is let go. The clock pauses meanwhile."""

    def observe(
        self,
        block: Block,
        target_probs: Tensor,
        laws: Sequence[ProposalLaw],
        token_maps: Sequence[TokenMap | Shortlist],
    ) -> None:
        """A block was verified.

        Args:
            block: what came of it, before a stop token or string may `cut` it.
            target_probs: p [n_drafts + 1, n_target]; the last row is that of the bonus token.
            laws: q̃ of each draft.
            token_maps: which tokens the draft head had at each draft.
        """


class BlockDecoder:
    """Decodes one request. Token level only: no text, no stop conditions.

    Args:
        target: the model whose law is kept.
        drafter: None decodes autoregressively.
        proposal: q ↦ q̃.
        draft_len: γ, drafts a block at most.
        params: how tokens are drawn.
        randomness: where draws come from.
        prompt_ids: int, at least one.
        clock: books the drafter's and the target's forwards, and pauses while β is computed.
        measure: compute β at tested positions.
        observer: is shown each block's laws.
    """

    def __init__(
        self,
        *,
        target: Target,
        drafter: Drafter | None,
        proposal: Proposal,
        draft_len: int,
        params: SamplingParams,
        randomness: Randomness,
        prompt_ids: list[int],
        clock: Stopwatch,
        measure: bool,
        observer: BlockObserver | None = None,
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._proposal = proposal
        self._draft_len = draft_len
        self._params = params
        self._randomness = randomness
        self._measure = measure
        self._observer = observer
        self._clock = clock
        self._n_context = len(prompt_ids)
        self._pending = torch.tensor(prompt_ids, device=target.device)
        self._news = self._pending  # verified tokens the drafter has not been told of
        self._news_features: Tensor | None = None
        self._n_news_accepted = 0
        self._seen: Tensor | None = None
        if params.repetition_penalty != 1.0:
            self._seen = torch.zeros(target.n_target, dtype=torch.bool, device=target.device)
            self._seen[self._pending] = True
        target.reset()
        if drafter is not None:
            drafter.begin()
            drafter.head.begin(prompt_ids)

    @property
    def n_context(self) -> int:
        """Tokens of prompt and output so far."""
        return self._n_context

    def next_block(self, max_tokens: int) -> Block:
        """Emit between 1 and min(γ + 1, max_tokens) tokens.

        Raises:
            NumericalError: logits hold NaN or infinity.
        """
        laws: list[ProposalLaw] = []
        token_maps: list[TokenMap | Shortlist] = []
        draft_ids = self._pending.new_empty(0)
        drafter, draft_len = self._drafter, self._room_for_drafts(max_tokens)
        if drafter is not None and draft_len:
            draft_ids, laws, token_maps = self._draft(drafter, draft_len)
        fed = torch.cat([self._pending, draft_ids.clamp_min(0)])  # -1 is rejected whatever stands in its place
        # what the draft head wants to know of the prompt; later blocks have one pending token, and nothing before it
        n_before = min(drafter.head.prompt_logits, self._pending.shape[0] - 1) if drafter else 0
        with self._clock.section("target"):
            out = self._target.forward(
                fed, n_logits=n_before + len(laws) + 1, feature_layers=drafter.feature_layers if drafter else ()
            )
        target_probs = probabilities(self._penalized(out.logits[n_before:], draft_ids), self._params)
        verdict = verify(target_probs, draft_ids, laws, self._randomness)
        drafted = draft_ids.tolist()
        emitted = [*drafted[: verdict.n_accepted], verdict.next_id]
        block = Block(
            token_ids=tuple(emitted),
            kind=verdict.kind,
            draft_ids=tuple(drafted),
            n_accepted=verdict.n_accepted,
            overlaps=(),
        )
        if self._measure:
            with self._clock.section("paused"):
                betas = [overlap(target_probs[i : i + 1], laws[i].dense()) for i in range(block.n_tested)]
                block = replace(block, overlaps=tuple(float(beta) for beta in betas))
        if self._observer is not None:
            with self._clock.section("paused"):
                self._observer.observe(block, target_probs, laws, token_maps)
        self._commit(emitted, verdict.n_accepted, out.features)
        if drafter is not None:
            # rows behind the first rejected draft are about text that does not stand
            drafter.head.observe(emitted, out.logits[: n_before + len(emitted)])
        return block

    def _room_for_drafts(self, max_tokens: int) -> int:
        drafter = self._drafter
        if drafter is None or (drafter.feature_layers and self._news_features is None):
            return 0  # a feature-conditioned drafter waits for the target's first pass over the prompt
        room = min(drafter.max_length, self._target.max_length) - self._n_context
        return max(0, min(self._draft_len, max_tokens - 1, room))

    def _draft(self, drafter: Drafter, draft_len: int) -> tuple[Tensor, list[ProposalLaw], list[TokenMap | Shortlist]]:
        laws: list[ProposalLaw] = []
        token_maps: list[TokenMap | Shortlist] = []
        ids: list[Tensor] = []
        with self._clock.section("draft"):
            hidden = drafter.advance(self._news, n_accepted=self._n_news_accepted, features=self._news_features)
        self._news = self._news[:0]
        for i in range(draft_len):
            with self._clock.section("head"):
                scores = drafter.head.score(hidden)
            law = self._proposal.law(self._penalized_scores(scores, ids), self._params)
            laws.append(law)
            token_maps.append(scores.token_map)
            ids.append(law.sample(self._randomness))
            if i + 1 < draft_len:
                with self._clock.section("draft"):
                    hidden = drafter.step(ids[-1].clamp_min(0))
        return torch.cat(ids), laws, token_maps

    def _commit(self, emitted: list[int], n_accepted: int, features: Tensor | None) -> None:
        n_pending = self._pending.shape[0]
        self._target.rollback(self._n_context + n_accepted)
        self._n_context += len(emitted)
        ids = self._pending.new_tensor(emitted)
        self._pending = ids[-1:]
        if self._seen is not None:
            self._seen[ids] = True
        if self._drafter is None:
            return
        waiting = self._news  # not empty if nothing was drafted in this block
        if not waiting.numel():
            self._n_news_accepted = n_accepted
        if features is not None:
            # the states that predicted each emitted token; on the first pass also those of the prompt's tokens 2 … n
            first_pass = self._news_features is None
            new_features = features[0 if first_pass else n_pending - 1 : n_pending + n_accepted]
            if first_pass:
                waiting = waiting[1:]
            elif waiting.numel() and self._news_features is not None:
                new_features = torch.cat([self._news_features, new_features])
            self._news_features = new_features
        self._news = torch.cat([waiting, ids])

    def _penalized(self, logits: Tensor, draft_ids: Tensor) -> Tensor:
        if self._seen is None:
            return logits
        seen = self._seen.repeat(logits.shape[0], 1)
        for i in range(draft_ids.shape[0]):
            seen[i + 1 :, draft_ids[i].clamp_min(0)] = True  # row i follows drafts 0 … i-1: they are context there
        return penalize_repetition(logits, seen, self._params.repetition_penalty)

    def _penalized_scores(self, scores: DraftScores, draft_ids: list[Tensor]) -> DraftScores:
        if self._seen is None:
            return scores
        seen = self._seen.clone()
        for draft_id in draft_ids:
            seen[draft_id.clamp_min(0)] = True
        columns = scores.token_map.draft_to_target
        seen_columns = seen[columns.clamp_min(0)] & (columns >= 0)
        return replace(scores, logits=penalize_repetition(scores.logits, seen_columns, self._params.repetition_penalty))
