"""Draft heads on disk: what all kinds have in common, and how a path becomes the right one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from outlex.artifact import read_manifest
from outlex.drafters.fitted import KIND as FITTED
from outlex.drafters.fitted import FittedHead
from outlex.drafters.stored_proposal import StoredProposal
from outlex.drafters.trimmed import KIND as TRIMMED
from outlex.drafters.trimmed import TrimmedDrafter
from outlex.errors import ArtifactError
from outlex.heads.base import DraftHead
from outlex.heads.linear import LinearHead
from outlex.proposals.base import Proposal
from outlex.proposals.tli import Tli

if TYPE_CHECKING:
    import torch

    from outlex.models.language_model import LanguageModel

__all__ = ["DraftHeadArtifact", "load_draft_head", "proposal_of", "told_apart"]


class DraftHeadArtifact(Protocol):
    """A cheaper head for one drafter: trimmed (`TrimmedDrafter`) or fitted (`FittedHead`)."""

    @property
    def name(self) -> str:
        """Short name for reports, such as "trimmed-16384"."""

    @property
    def base_name(self) -> str:
        """Short name of the drafter it was made for."""

    @property
    def base_source(self) -> str:
        """What `load_model` loads that drafter by."""

    @property
    def n_draft(self) -> int:
        """Tokens that a position's proposal covers, at least."""

    @property
    def tokenizer_fingerprint(self) -> str:
        """Of the tokenizer whose ids it speaks of."""

    @property
    def stored(self) -> StoredProposal | None:
        """How draft tokens are drawn from its scores, if `outlex fit` was asked."""

    @property
    def proposal(self) -> Proposal | None:
        """The proposal of `stored`; None where nothing was fitted, and where TLI was found to be best."""

    def describe(self) -> dict[str, Any]:
        """Sizes, fingerprints and origin, as JSON values."""

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the artifact; an existing one is replaced whole or not at all."""

    def head_from(self, full: LinearHead, *, n_target: int) -> DraftHead:
        """The head, ready to score; `full` is the drafter's own.

        Raises:
            MismatchError: `full` is not the head that this was made for.
        """

    def head_for(self, base: LanguageModel, *, n_target: int) -> DraftHead:
        """The same, with the tokenizer checked too."""


def load_draft_head(directory: str | os.PathLike[str]) -> TrimmedDrafter | FittedHead:
    """Read what `outlex trim` or `outlex fit-head` wrote.

    Raises:
        ArtifactError: missing, truncated, damaged, or of another kind.
    """
    kind = read_manifest(directory).kind
    if kind == TRIMMED:
        return TrimmedDrafter.load(directory)
    if kind == FITTED:
        return FittedHead.load(directory)
    raise ArtifactError(
        "This artifact is no draft head",
        got=f"{os.fspath(directory)}: {kind}",
        expected=f"{TRIMMED} or {FITTED}",
        next_step="make one with `outlex trim` or `outlex fit-head`",
    )


def proposal_of(
    artifact: DraftHeadArtifact, *, n_target: int, device: torch.device, tokenizer: str | None = None
) -> Proposal:
    """The proposal in an artifact, on a device; TLI where there is none.

    Args:
        artifact: of the drafter.
        n_target: rows of the target's head.
        device: where the scores are.
        tokenizer: fingerprint of the target's tokenizer, if the drafter has another one.

    Raises:
        MismatchError: it was fitted for a target's head of another width, or for other tokens.
    """
    stored = artifact.stored
    if stored is None or stored.proposal is None:
        return Tli()
    stored.check_target(n_target, tokenizer=tokenizer)
    return stored.proposal.to(device)


def told_apart(names: Sequence[str]) -> list[str]:
    """The names of heads that are compared: where one comes twice, "#1", "#2" and so on follow it."""
    used: Counter[str] = Counter()
    found = []
    for name in names:
        used[name] += 1
        found.append(f"{name}#{used[name]}" if names.count(name) > 1 else name)
    return found
