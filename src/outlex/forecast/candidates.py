"""What is compared: draft vocabularies and draft heads, and how vocabularies in one another share their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.calibration.traces import TraceSet
from outlex.drafters.artifacts import proposal_of, told_apart
from outlex.drafters.retokenizing import retokenized_head
from outlex.drafters.trimmed import TrimmedDrafter
from outlex.errors import InputError, MismatchError
from outlex.heads.linear import LinearHead, trim_head
from outlex.proposals.base import Proposal
from outlex.proposals.tli import Tli
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.token_map import TokenMap

if TYPE_CHECKING:
    from outlex.drafters.artifacts import DraftHeadArtifact
    from outlex.forecast.step_times import StepTimes
    from outlex.heads.base import DraftHead

__all__ = ["UNTRIMMED", "Candidate", "Family", "candidates_for", "families", "names_of"]

UNTRIMMED = "untrimmed"


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One draft vocabulary, or one head that chooses its tokens itself.

    Attributes:
        name: "untrimmed", "trimmed-<size>" or the name of the fitted head, with "#1", "#2" … where one comes twice.
        ids: int64 [n_draft], its target ids; None for every row of the drafter's head.
        n_draft: rows of the draft head, at least.
        head: scores in place of rows of the drafter's head; `ids` is None then. Candidates may share one.
        proposal: q ↦ q̃ unless the forecast is asked for another.
    """

    name: str
    ids: Tensor | None = field(default=None, repr=False)
    n_draft: int
    head: DraftHead | None = field(default=None, repr=False)
    proposal: Proposal = field(default_factory=Tli, repr=False)

    def step_s(self, times: StepTimes) -> float | None:
        """Seconds of a draft step; None where the times do not reach."""
        return times.draft_step(self.n_draft) if self.head is None else times.head_step(self.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """Candidates of which each contains the smaller ones: all are first columns of one order.

    Attributes:
        order: int64 [n], ids of the largest member, those of smaller ones first; None for the untrimmed head.
        members: (index of the candidate, map of its columns).
    """

    order: Tensor | None
    members: tuple[tuple[int, TokenMap], ...]


def candidates_for(
    given_ones: Sequence[SubVocab | DraftHeadArtifact],
    *,
    traces: TraceSet,
    target_head: LinearHead,
    drafter_head: LinearHead,
    shared: TokenMap | None = None,
) -> list[Candidate]:
    """The untrimmed head first, then the given ones.

    Args:
        given_ones: what to compare.
        traces, target_head, drafter_head: of the pair.
        shared: drafter rows to tokens of a target with another tokenizer; None for one tokenizer.

    Raises:
        InputError: a fitted head for a drafter with another tokenizer.
        MismatchError: another tokenizer, or a head that was made for another drafter.
        VocabError: an id that the target's head does not have.
    """
    found = [Candidate(name=UNTRIMMED, n_draft=drafter_head.n_rows)]
    for name, given in zip(names_of(given_ones), given_ones, strict=True):
        proposal: Proposal = Tli()
        if not isinstance(given, SubVocab):
            proposal = proposal_of(
                given,
                n_target=target_head.n_rows,
                device=target_head.weight.device,
                tokenizer=None if shared is None else traces.header.tokenizer_fingerprint,
            )
        if not isinstance(given, (SubVocab, TrimmedDrafter)):
            if shared is not None:
                raise InputError(
                    "Fitted heads follow the request in the target's tokens, and this drafter has others",
                    got=name,
                    expected="a trimmed drafter, or its whole head",
                    next_step="trim the drafter with `outlex trim`, or leave the head out",
                )
            head = given.head_from(drafter_head, n_target=target_head.n_rows)
            found.append(Candidate(name=name, n_draft=given.n_draft, head=head, proposal=proposal))
            continue
        vocab = given.vocab if isinstance(given, TrimmedDrafter) else given
        traces.check_vocab(vocab.tokenizer_fingerprint, vocab.n_tokenizer, what=name, of_drafter=shared is not None)
        cut = trim_head(drafter_head, vocab).linear
        if isinstance(given, TrimmedDrafter) and not _same_rows(given.linear, cut):
            raise MismatchError(
                f"{name} was cut from another drafter than the traced one",
                got=f"rows of {given.base_name}",
                expected=f"rows of {traces.header.drafter.name}",
                next_step=f"trim {traces.header.drafter.source!r}, or trace the pair with {given.base_source!r}",
            )
        if shared is None:
            ids = vocab.with_target_width(target_head.n_rows).draft_to_target
        elif isinstance(given, TrimmedDrafter) and not isinstance(proposal, Tli):
            # what is fitted to such a head looks at all of its rows, those that the target lacks as well
            head = retokenized_head(drafter_head, given, shared=shared)
            found.append(Candidate(name=name, n_draft=vocab.n_draft, head=head, proposal=proposal))
            continue
        else:
            ids = shared.to_target(vocab.draft_to_target.to(shared.device)).cpu()
            ids = ids[ids >= 0]  # TLI's law: rows without a token of the target have no mass
        found.append(Candidate(name=name, ids=ids, n_draft=vocab.n_draft, proposal=proposal))
    return found


def names_of(given_ones: Sequence[SubVocab | DraftHeadArtifact]) -> list[str]:
    """What they are called in a forecast."""
    return told_apart([f"trimmed-{one.n_draft}" if isinstance(one, SubVocab) else one.name for one in given_ones])


def families(
    candidates: Sequence[Candidate], *, n_target: int, device: torch.device, shared: TokenMap | None = None
) -> list[Family]:
    """Group candidates without a head of their own so that each family's columns are gathered once.

    Sizes of one ranking are nested sets, whatever their order, because must-keep ids are in all of them. In an order
    that lists the smallest one's ids first, every member is a prefix, and its columns a view.
    """
    trimmed = sorted(((i, c.ids) for i, c in enumerate(candidates) if c.ids is not None), key=lambda pair: len(pair[1]))
    chains: list[list[tuple[int, Tensor]]] = []
    for index, ids in trimmed:
        fitting = (chain for chain in chains if bool(torch.isin(chain[-1][1], ids).all()))
        chain = next(fitting, None)
        if chain is None:
            chains.append([(index, ids)])
        else:
            chain.append((index, ids))
    whole = None if shared is None else shared.to(device)
    grouped = [
        Family(order=None, members=((i, whole or TokenMap.identity(c.n_draft, n_target)),))
        for i, c in enumerate(candidates)
        if c.ids is None and c.head is None
    ]
    for chain in chains:
        order = torch.empty(0, dtype=torch.int64)
        members = []
        for index, ids in chain:
            order = torch.cat([order, ids[~torch.isin(ids, order)]])
            members.append((index, TokenMap(order, n_draft=len(order), n_target=n_target).to(device)))
        grouped.append(Family(order=order.to(device), members=tuple(members)))
    return grouped


def _same_rows(stored: LinearHead, cut: LinearHead) -> bool:
    return stored.weight.shape == cut.weight.shape and stored.fingerprint == cut.fingerprint
