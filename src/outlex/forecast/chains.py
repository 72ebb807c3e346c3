"""How decoding walks along a text: which positions it tests, and how many target passes it takes. No dice, no models.

Given the text x that is emitted, a draft tested at position t was accepted with probability

    a_t = min(1, q̃_t(x_t) / p_t(x_t)),

because token v is emitted there with probability p(v), and emitted *as an accepted draft* with probability
min(p(v), q̃(v)). So, along a fixed text, the number i of drafts accepted so far in the running block is a Markov chain:

    i < γ   the token at t is tested:  → i + 1 with probability a_t   (accepted)
                                       → 0     with probability 1 − a_t (recovered: the block ends)
    i = γ   the token at t is a bonus: → 0

w_t(i) is the probability of being in state i at t, with w_0(0) = 1. A pass begins at t with probability w_t(0); t is
tested with probability r_t = Σ_{i<γ} w_t(i). Block starts are neither uniform nor independent of how easy a position
is: right after a rejection decoding tests again, behind γ accepted drafts it does not.

r_t depends on tokens before t only, so E[Σ r_t β_t] is the expected number of accepted drafts, with β_t = Σ min(p, q̃)
in place of the noisier a_t. Tokens − accepted drafts = passes, up to a block that a stop token cuts: the passes are
corrected by Σ r_t (a_t − β_t), which has mean 0. Averages of products Π β_{t+j} along the text would not be exact: the
text *after an accepted draft* follows min(p, q̃) / β, not p.

When the text was sampled at another temperature, x is no sample of p, and β takes the place of a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from outlex.errors import InputError

__all__ = ["ChainSums", "walk"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainSums:
    """Expected sums of each text, [n_texts] float64.

    Attributes:
        passes: target passes.
        drafted: drafts proposed.
        tested: drafts that meet their test.
        accepted: Σ r_t β_t, tested drafts weighted with their acceptance probability.
    """

    passes: Floats
    drafted: Floats
    tested: Floats
    accepted: Floats


def walk(
    *, accept: Floats, beta: Floats, lengths: npt.NDArray[np.int64], draft_len: int, max_new_tokens: int
) -> ChainSums:
    """Decode texts in expectation.

    Mirrors `BlockDecoder`: with R tokens left to `max_new_tokens`, min(γ, R − 1) drafts are proposed, so the last token
    that is allowed is never tested. A text that ends earlier was ended by a stop token.

    Args:
        accept: a at every position, the texts one after the other, [n].
        beta: β at the same positions, [n].
        lengths: tokens of each text, each at least 1, summing to n.
        draft_len: γ ≥ 1.
        max_new_tokens: as the decoder is told; no text is longer.

    Raises:
        InputError: shapes that do not fit, or a draft length below 1.
    """
    if draft_len < 1 or len(accept) != len(beta) or len(accept) != lengths.sum() or lengths.max() > max_new_tokens:
        raise InputError(
            "These texts cannot be decoded in expectation",
            got=f"draft_len={draft_len}, {len(accept)} and {len(beta)} positions, texts of up to {lengths.max()}",
            expected=f"draft_len >= 1, {lengths.sum()} positions, texts of at most {max_new_tokens} tokens",
            next_step="use a --draft-len of at least 1, and traces as `outlex trace` wrote them",
        )
    n_texts, longest = len(lengths), int(lengths.max())
    places = np.arange(longest) < lengths[:, None]
    by_text = np.zeros((2, n_texts, longest))
    by_text[:, places] = accept, beta
    passes, drafted, tested, accepted, surplus = np.zeros((5, n_texts))
    state = np.zeros((n_texts, draft_len + 1))
    state[:, 0] = 1
    for t in range(longest):
        state *= places[:, t, None]  # texts that have ended
        a, b = by_text[:, :, t]
        passes += state[:, 0]
        drafted += state[:, 0] * min(draft_len, max_new_tokens - 1 - t)
        if t < max_new_tokens - 1:
            here = state[:, :draft_len].sum(1)
            tested += here
            accepted += here * b
            surplus += here * (a - b)
        after = np.empty_like(state)
        after[:, 1:] = state[:, :draft_len] * a[:, None]
        after[:, 0] = (state[:, :draft_len] * (1 - a)[:, None]).sum(1) + state[:, draft_len]
        state = after
    # a pass more proposes γ drafts more, but for those that max_new_tokens cuts; either correction has mean 0
    return ChainSums(passes=passes + surplus, drafted=drafted + draft_len * surplus, tested=tested, accepted=accepted)
