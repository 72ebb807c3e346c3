"""What each token of a generation was decided by: p, q̃, and what else both laws would have liked there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from outlex.decode.block import Block
from outlex.decode.text import TextStream
from outlex.proposals.base import ProposalLaw
from outlex.verify import overlap
from outlex.vocab.shortlist import Shortlist
from outlex.vocab.token_map import TokenMap

__all__ = ["TokenTrace", "TracedToken"]

_DIGITS = 6  # of probabilities in JSON


@dataclass(frozen=True, kw_only=True)
class TracedToken:
    """One emitted token. Probabilities under q̃ are None where no draft was tested.

    Attributes:
        token_id: of it.
        kind: "accepted", "recovered" or "bonus".
        block: number of the target pass, from 0.
        p, q: target's and proposal's probability of it.
        beta: Σ min(p, q̃), the probability that a draft is accepted there.
        in_draft: whether the draft head has a row for it; None where that is not known, as for a bonus token of a head
            that chooses its rows anew at each position.
        draft: (id, p, q̃) of the rejected draft that it replaces; id -1 is a token the target does not know.
        top_p, top_q: (id, p, q̃) of the most probable tokens of each law, best first.
    """

    token_id: int
    kind: str
    block: int
    p: float
    q: float | None
    beta: float | None
    in_draft: bool | None
    draft: tuple[int, float, float | None] | None
    top_p: tuple[tuple[int, float, float | None], ...]
    top_q: tuple[tuple[int, float, float | None], ...]


@dataclass(kw_only=True)
class TokenTrace:
    """Keeps a `TracedToken` for each emitted token (protocol `BlockObserver`).

    Attributes:
        n_top: alternatives of each law.
        tokens: in the order they were emitted. Where a stop token or string ended the text inside a block, the tokens
            behind it are here as well.
    """

    n_top: int = 8
    tokens: list[TracedToken] = field(default_factory=list)
    _n_blocks: int = 0

    def observe(
        self,
        block: Block,
        target_probs: Tensor,
        laws: Sequence[ProposalLaw],
        token_maps: Sequence[TokenMap | Shortlist],
    ) -> None:
        """Called by the decoding loop after each block."""
        for place, token_id in enumerate(block.token_ids):
            p = target_probs[place]
            tested = place < block.n_tested
            q = laws[place].dense()[0] if tested else None
            rejected = place == block.n_accepted and tested
            columns = token_maps[place] if tested else _fixed(token_maps)
            self.tokens.append(
                TracedToken(
                    token_id=token_id,
                    kind=block.kind if place == block.n_accepted else "accepted",
                    block=self._n_blocks,
                    p=float(p[token_id]),
                    q=None if q is None else float(q[token_id]),
                    beta=None if q is None else float(overlap(p.unsqueeze(0), q.unsqueeze(0))),
                    in_draft=None
                    if columns is None
                    else int(columns.to_draft(torch.tensor(token_id, device=p.device))) >= 0,
                    draft=_entry(block.draft_ids[place], p, q) if rejected else None,
                    top_p=self._top(p, p, q),
                    top_q=() if q is None else self._top(q, p, q),
                )
            )
        self._n_blocks += 1

    def to_json(self, n_tokens: int, *, decode: Callable[..., str]) -> list[dict[str, Any]]:
        """The first `n_tokens` tokens as JSON values.

        Args:
            n_tokens: of the generation.
            decode: `LanguageModel.decode`.

        Returns:
            `text` is what a token adds to the text: nothing for special tokens and for all but the last token of a
            character; `piece` is the token by itself.
        """
        stream, values = TextStream(decode), []
        kept = self.tokens[:n_tokens]
        for number, token in enumerate(kept, start=1):
            stream.push(token.token_id)
            text = stream.take() + (stream.finish() if number == len(kept) else "")
            values.append(
                {
                    **_named(token.token_id, decode),
                    "text": text,
                    "kind": token.kind,
                    "block": token.block,
                    "p": _short(token.p),
                    "q": _short(token.q),
                    "beta": _short(token.beta),
                    "in_draft": token.in_draft,
                    "draft": None if token.draft is None else _entry_json(token.draft, decode),
                    "top_p": [_entry_json(entry, decode) for entry in token.top_p],
                    "top_q": [_entry_json(entry, decode) for entry in token.top_q],
                }
            )
        return values

    def _top(self, law: Tensor, p: Tensor, q: Tensor | None) -> tuple[tuple[int, float, float | None], ...]:
        best = law.topk(min(self.n_top, law.shape[0]))
        likely = [i for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True) if value > 0]
        return tuple(_entry(i, p, q) for i in likely)


def _fixed(token_maps: Sequence[TokenMap | Shortlist]) -> TokenMap | None:
    """The map of a head whose rows are always the same: it holds at positions without a draft, too."""
    last = token_maps[-1] if token_maps else None
    return last if isinstance(last, TokenMap) else None


def _entry(token_id: int, p: Tensor, q: Tensor | None) -> tuple[int, float, float | None]:
    if token_id < 0:
        return -1, 0.0, None
    return token_id, float(p[token_id]), None if q is None else float(q[token_id])


def _named(token_id: int, decode: Callable[..., str]) -> dict[str, Any]:
    return {"token_id": token_id, "piece": "" if token_id < 0 else decode([token_id], skip_special=False)}


def _entry_json(entry: tuple[int, float, float | None], decode: Callable[..., str]) -> dict[str, Any]:
    token_id, p, q = entry
    return {**_named(token_id, decode), "p": _short(p), "q": _short(q)}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
