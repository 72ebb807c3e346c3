"""Which proposals are tried, and how each is fitted: one recipe is one proposal with one prior and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from outlex.affinity import (
    Affinity,
    CoOccurrence,
    Correlation,
    Covariance,
    HeadCosine,
    SparseDistributions,
    StringPrefix,
    nearest,
)
from outlex.errors import InputError
from outlex.proposals import Clusters, ColdRow, Learned, RdkExact, RdkFirstOrder, Respelled, Restoring, SparseKernel
from outlex.tuning.evidence import Evidence

__all__ = ["AFFINITIES", "FAMILIES", "Recipe", "affinities", "recipes_of", "widest_exact"]

FAMILIES = ("respelled", "rdk-exact", "rdk-first-order", "sparse-kernel", "cold-row", "clusters", "learned")
# temperatures of softmax(Ω / T): co-occurrence and prefixes are logs of laws, the others are not
AFFINITIES = {"covariance": 1e-3, "correlation": 0.1, "co-occurrence": 1.0, "head-cosine": 0.1, "string-prefix": 1.0}

_FIRST_ORDER = (1e-2, 1e-4, 1e-6)  # T_Ω; a covariance of probabilities has entries below 0.25
_N_LAWS, _N_KEPT = 2048, 64  # calibration laws of Ω, tokens of each
_N_SOURCES, _N_NEIGHBOURS = 1024, 16  # rows of a sparse kernel, entries of a row
_N_LEARNING = 2048  # positions
_LARGEST_EXACT = 1 << 24  # n_draft · n_target: a draft step makes so many entries of M


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A proposal to be fitted.

    Attributes:
        family: one of `FAMILIES`.
        name: what a table calls it.
        fit: evidence to proposal; seconds to a minute.
        is_fitted: whether the traces have a say in the proposal itself.
    """

    family: str
    name: str
    fit: Callable[[Evidence], Restoring] = field(repr=False)
    is_fitted: bool = True


def recipes_of(evidence: Evidence, family: str) -> list[Recipe]:
    """The recipes of one family, or of all with "auto"; those that cannot be fitted to this evidence are left out.

    Raises:
        InputError: there is no such family, or nothing in it can be fitted here.
    """
    if family not in ("auto", "tli", *FAMILIES):
        raise InputError(
            "There is no such proposal",
            got=repr(family),
            expected=f"auto, tli, {', '.join(FAMILIES)}",
            next_step="auto fits and compares all of them",
        )
    found = [recipe for recipe in _recipes(evidence) if family in ("auto", recipe.family)]
    if not found and family != "tli":
        raise InputError(
            "This proposal cannot be fitted to this pair",
            got=f"{family} for {evidence.n_draft} draft tokens and a target of {evidence.n_target} rows",
            expected=_needed_by(family),
            next_step="auto compares what is possible; sparse-kernel is rdk-exact with the largest entries of each row",
        )
    return found


def _needed_by(family: str) -> str:
    if family == "rdk-exact":
        return f"at most {_LARGEST_EXACT:,} pairs of them"
    if family == "respelled":
        return "a drafter with another tokenizer, and tokens that only the drafter has"
    return "rows of the drafter's head that were pruned"


def widest_exact(n_draft: int, n_target: int) -> bool:
    """Whether rdk-exact is possible at all."""
    return n_draft * n_target <= _LARGEST_EXACT


def affinities(evidence: Evidence) -> Iterator[tuple[str, Callable[[], Affinity]]]:
    """Priors that can be made of the evidence, by kind."""
    yield "covariance", lambda: Covariance(distributions=_laws(evidence))
    yield "correlation", lambda: Correlation(distributions=_laws(evidence))
    yield (
        "co-occurrence",
        lambda: CoOccurrence(given=evidence.draft_laws(n_laws=_N_LAWS, n_kept=_N_KEPT), then=_laws(evidence)),
    )
    if evidence.shared is None and evidence.drafter_head.n_rows >= evidence.n_target:
        yield "head-cosine", lambda: HeadCosine(weight=evidence.drafter_head.weight[: evidence.n_target])
    spellings = evidence.spellings
    if spellings is not None:
        # a token that was never seen keeps a little: its prior is only low
        prior = evidence.prior.cpu() + 1e-9
        yield (
            "string-prefix",
            lambda: StringPrefix.of_bytes(
                _padded(spellings, evidence.n_target), spellings[: evidence.n_target], prior=prior
            ).to(evidence.prior.device),
        )


def _recipes(evidence: Evidence) -> Iterator[Recipe]:
    first_ids = evidence.first_ids
    if first_ids is not None:
        yield Recipe(family="respelled", name="respelled", fit=partial(_respelled, first_ids), is_fitted=False)
    priors = dict(affinities(evidence))
    if widest_exact(evidence.n_draft, evidence.n_target):
        for kind, make in priors.items():
            yield Recipe(family="rdk-exact", name=f"rdk-exact, {kind}", fit=partial(_rdk_exact, make, AFFINITIES[kind]))
    for temperature in _FIRST_ORDER:
        name = f"rdk-first-order, T {temperature:.0e}"
        yield Recipe(family="rdk-first-order", name=name, fit=partial(_first_order, temperature))
    for kind, make in priors.items():
        yield Recipe(
            family="sparse-kernel", name=f"sparse-kernel, {kind}", fit=partial(_sparse, make, AFFINITIES[kind])
        )
    n_pruned = len(evidence.pruned_ids)
    for rank, name in ((0, "cold-row, Jensen"), (16, "cold-row, 2nd order")):
        if n_pruned:
            yield Recipe(family="cold-row", name=name, fit=partial(_cold_row, rank))
    for n_clusters, rank in ((64, 0), (256, 8)):
        if n_clusters < n_pruned:
            name = f"clusters, {n_clusters}" + (", 2nd order" if rank else "")
            yield Recipe(family="clusters", name=name, fit=partial(_clusters, n_clusters, rank))
    for kind in ("co-occurrence", "head-cosine"):
        if kind in priors:
            yield Recipe(family="learned", name=f"learned, {kind}", fit=partial(_learned, priors[kind]))


def _laws(evidence: Evidence) -> SparseDistributions:
    return evidence.target_laws(n_laws=_N_LAWS, n_kept=_N_KEPT)


def _respelled(first_ids: Tensor, evidence: Evidence) -> Restoring:
    return Respelled(first_ids=first_ids, n_target=evidence.n_target)


def _rdk_exact(make: Callable[[], Affinity], temperature: float, evidence: Evidence) -> Restoring:
    del evidence
    return RdkExact(affinity=make(), temperature=temperature)


def _first_order(temperature: float, evidence: Evidence) -> Restoring:
    return RdkFirstOrder(distributions=_laws(evidence), temperature=temperature)


def _sparse(make: Callable[[], Affinity], temperature: float, evidence: Evidence) -> Restoring:
    return SparseKernel.of_affinity(
        make(),
        evidence.sources(_N_SOURCES),
        temperature=temperature,
        n_neighbours=min(_N_NEIGHBOURS, len(evidence.cold_ids)),
        among=evidence.cold_ids,
    )


def _cold_row(rank: int, evidence: Evidence) -> Restoring:
    return ColdRow.fit(evidence.cold_rows(prior=evidence.prior), n_target=evidence.n_target, rank=rank)


def _clusters(n_clusters: int, rank: int, evidence: Evidence) -> Restoring:
    cold = evidence.cold_rows(prior=evidence.prior)
    return Clusters.fit(cold, n_target=evidence.n_target, n_clusters=n_clusters, rank=rank, n_rounds=4)


def _learned(make: Callable[[], Affinity], evidence: Evidence) -> Restoring:
    neighbours = nearest(
        make(),
        evidence.sources(_N_SOURCES),
        n_neighbours=min(_N_NEIGHBOURS, len(evidence.cold_ids)),
        among=evidence.cold_ids,
    )
    step = -(-len(evidence.prompts) // _N_LEARNING)
    every = slice(None, None, step)
    return Learned.fit(
        neighbours=neighbours,
        n_target=evidence.n_target,
        draft_probs=evidence.at(evidence.draft_ids[every], evidence.draft_probs[every], neighbours[:, 0]),
        target_probs=evidence.at(evidence.target_ids[every], evidence.target_probs[every], Learned.columns(neighbours)),
        held_out=evidence.prompts[every] % 5 == 0,  # whole prompts
        n_steps=60,
        patience=10,
    )


def _padded(spellings: Sequence[bytes | None], n: int) -> list[bytes | None]:
    return [*spellings[:n], *([None] * (n - len(spellings)))]
