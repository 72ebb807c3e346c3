"""Which tokens are needed most: what was counted, and the tokenizer's own order for what counts cannot tell.

A tokenizer numbers its tokens by how early its training merged them, so the id order is itself a list by frequency,
from a corpus far larger than any calibration. It enters as a prior. The token at place r has the probability

    p(v) ∝ w_v · (r_v + b)^−a        w_v = w for a plain word after a space, else 1

and the score, in tokens, is

    score(v) = (1 − λ) · n_v + λ · N · p(v)        n_v its count, N = Σ n_v

the posterior mean of a Dirichlet law with λ/(1 − λ) · N pseudo-counts. Fitting λ to the counts themselves trusts them
far too much: the next text is not of the same documents, nor quite of the same domains. So λ, a, b and w are those
that predict each domain best from the others.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.selection.evidence import Evidence
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.ranking import Ranking, rank_by_counts
from outlex.vocab.tokenizer_facts import TokenizerFacts, piece_bytes

__all__ = ["RankBy", "RankPrior", "Ranked", "fit_rank_prior", "rank", "smoothed"]

RankBy = Literal["mixture", "counts", "variance"]
_Array = npt.NDArray[np.float64]

_WORD = re.compile(r" [^\W\d_]+")
_MIN_DOMAINS = 2


@dataclass(frozen=True, kw_only=True)
class RankPrior:
    """What the tokenizer's order says, and how far it is believed. The defaults serve where there is nothing to fit.

    Attributes:
        share: λ, of the score that comes from the prior, in [0, 1].
        exponent, offset: a and b. With a = 1, b is the place up to which tokens are about equally frequent.
        word_factor: w.

    Raises:
        InputError: out of range.
    """

    share: float = 0.5
    exponent: float = 1.0
    offset: float = 1000.0
    word_factor: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and self.exponent >= 0 and self.offset > 0 and self.word_factor > 0):
            raise InputError(
                "This is no prior",
                got=self,
                expected="a share from 0 to 1, an exponent of at least 0, offset and word factor above 0",
                next_step="leave the prior out to have it fitted",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """Ids in order, and how much each is needed.

    Attributes:
        ids: int64 ``[n]``, hottest first; ids that are left out follow in ascending order.
        weights: float64 ``[n_tokenizer]``: counts or scores that coverage is computed from; None where only the order
            is known.
        provenance: JSON object: the sources and how they were mixed.
    """

    ids: Tensor = field(repr=False)
    weights: Tensor | None = field(repr=False)
    provenance: dict[str, Any]


def rank(
    source: Evidence | Ranking,
    *,
    facts: TokenizerFacts,
    must_keep: MustKeep,
    by: RankBy = "mixture",
    prior: RankPrior | None = None,
) -> Ranked:
    """Order the ids.

    Args:
        source: what is known; a list without counts keeps its own order, whatever ``by`` says of counts.
        facts: of the tokenizer.
        must_keep: ids that stay anyway; the prior leaves them out.
        by: ``"mixture"``, counts and prior; ``"counts"``; ``"variance"``, of the target's probability.
        prior: of the mixture; None fits it.

    Raises:
        InputError: by variance without traces.
    """
    if isinstance(source, Ranking):
        if by == "variance":
            raise InputError(
                "A list without counts knows no variance",
                got=source.provenance["source"],
                expected="a directory that 'outlex trace' wrote",
                next_step="give traces as --tokens, or leave --rank out",
            )
        return Ranked(ids=source.ids, weights=None, provenance=source.provenance)
    counts = source.total()
    names = ", ".join(str(one["source"]) for one in source.sources)
    provenance: dict[str, Any] = {"source": names, "rank": by, "sources": list(source.sources)}
    if by == "counts":
        return Ranked(ids=rank_by_counts(counts), weights=counts, provenance=provenance)
    if by == "variance":
        return Ranked(ids=rank_by_counts(source.variance()), weights=counts, provenance=provenance)
    prior = prior or fit_rank_prior(source, facts=facts, must_keep=must_keep)
    scores = smoothed(counts, prior, facts=facts, must_keep=must_keep)
    return Ranked(ids=rank_by_counts(scores), weights=scores, provenance={**provenance, "prior": asdict(prior)})


def smoothed(counts: Tensor, prior: RankPrior, *, facts: TokenizerFacts, must_keep: MustKeep) -> Tensor:
    """Counts mixed with the prior: float64 ``[n_tokenizer]``, of the same sum.

    Must-keep tokens keep their counts: they stay anyway, and their share should not depend on the prior.
    """
    order = _Order.of(facts, must_keep)
    own = counts.double().numpy()[order.free]
    scores = counts.double().clone()
    law = order.law(prior.exponent, prior.offset, prior.word_factor)
    scores[torch.from_numpy(order.free)] = torch.from_numpy((1 - prior.share) * own + prior.share * own.sum() * law)
    return scores


def fit_rank_prior(evidence: Evidence, *, facts: TokenizerFacts, must_keep: MustKeep) -> RankPrior:
    """The λ, a, b and w under which the domains are most probable, each predicted from all the others.

    Every domain counts the same, however long it is. With fewer than two domains nothing can be left out, and the
    defaults are returned.
    """
    from scipy.optimize import minimize

    order = _Order.of(facts, must_keep)
    by_name: dict[str, _Array] = {}
    for domain in evidence.domains:
        own = domain.weight * domain.counts.double().numpy()[order.free]
        by_name[domain.name] = by_name.get(domain.name, 0) + own
    domains = [counts for counts in by_name.values() if counts.any()]
    if len(domains) < _MIN_DOMAINS:
        return RankPrior()
    folds = [_fold(counts, sum(domains) - counts) for counts in domains]

    def loss(point: _Array) -> float:
        prior = _prior_at(point)
        law = order.law(prior.exponent, prior.offset, prior.word_factor)
        logs = [(s * np.log((1 - prior.share) * others + prior.share * law[i])).sum() for i, s, others in folds]
        return -float(np.mean(logs))

    start = np.array([0.0, 0.0, np.log(1000.0), np.log(2.0)])
    # the steps of the simplex on purpose: by itself it hardly leaves a coordinate that starts at 0
    simplex = np.vstack((start, start + np.diag([1.0, 0.2, 1.0, 0.5])))
    options = {"maxiter": 300, "xatol": 1e-2, "fatol": 1e-5, "initial_simplex": simplex}
    return _prior_at(minimize(loss, start, method="Nelder-Mead", options=options).x)


def _fold(counts: _Array, others: _Array) -> tuple[npt.NDArray[np.int64], _Array, _Array]:
    """Places of the tokens of a domain, their shares of it, and what the other domains say of them."""
    seen = np.flatnonzero(counts)
    return seen, counts[seen] / counts.sum(), np.maximum(others[seen], 0) / others.sum()


def _prior_at(point: _Array) -> RankPrior:
    """From a point without limits: logit λ, log a, log b, log w. Far out is no better than at these limits."""
    logit, *logs = point.tolist()
    share = float(1 / (1 + np.exp(-np.clip(logit, -5, 5))))
    exponent, offset, factor = np.exp(np.clip(logs, np.log([0.3, 1.0, 0.05]), np.log([3.0, 1e5, 20.0]))).tolist()
    return RankPrior(share=share, exponent=exponent, offset=offset, word_factor=factor)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Order:
    """The tokens that are ranked, in the tokenizer's order.

    Attributes:
        free: int64 ``[n]``, ids with a piece that are not must-keep, ascending.
        is_word: bool ``[n]``, plain words after a space.
    """

    free: npt.NDArray[np.int64]
    is_word: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, facts: TokenizerFacts, must_keep: MustKeep) -> _Order:
        spelled, kept = piece_bytes(facts), set(must_keep.ids)
        free = [i for i, piece in enumerate(facts.pieces) if piece is not None and i not in kept]
        return cls(
            free=np.array(free, dtype=np.int64), is_word=np.array([_is_word(spelled[i]) for i in free], dtype=bool)
        )

    def law(self, exponent: float, offset: float, word_factor: float) -> _Array:
        """p(v): float64 ``[n]``, sums to 1."""
        # divided by b, so that no power underflows
        law = (np.arange(len(self.free)) / offset + 1) ** -exponent * np.where(self.is_word, word_factor, 1.0)
        return np.asarray(law / law.sum()) if len(law) else law


def _is_word(data: bytes | None) -> bool:
    text = (data or b"").decode("utf-8", "replace")
    return _WORD.fullmatch(text) is not None and text[2:] == text[2:].lower()
