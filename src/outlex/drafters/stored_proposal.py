"""The optional part of a draft-head artifact that says how draft tokens are drawn from its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from outlex.errors import ArtifactError, MismatchError
from outlex.proposals.restoring import Restoring

__all__ = ["StoredProposal", "put_proposal", "take_proposal"]

_SCHEMA = 2  # 1 had no proposal
_PREFIX = "proposal."


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredProposal:
    """What `outlex fit` found.

    Attributes:
        proposal: q ↦ q̃; None where TLI was found to be best.
        n_target: rows of the head of the target that it was fitted for.
        target_tokenizer: fingerprint of that target's tokenizer, if the drafter has another one: ids of the proposal
            are the target's then. None for one tokenizer.
        provenance: what was compared, on which traces, JSON values.
    """

    proposal: Restoring | None
    n_target: int
    target_tokenizer: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return "tli" if self.proposal is None else self.proposal.name

    def to_json(self) -> dict[str, Any]:
        """Name and origin, JSON values."""
        return {"name": self.name, "n_target": self.n_target, **self.provenance}

    def check_target(self, n_target: int, *, tokenizer: str | None = None) -> None:
        """Check that a target is like the one this was fitted for.

        Args:
            n_target: rows of its head.
            tokenizer: fingerprint of its tokenizer, if the drafter has another one.

        Raises:
            MismatchError: a head of another width, or other tokens.
        """
        if self.proposal is not None and tokenizer != self.target_tokenizer:
            raise MismatchError(
                "The proposal in this artifact was fitted for a target with another tokenizer",
                got=f"tokenizer {tokenizer[:12]}" if tokenizer else "a target with the drafter's tokenizer",
                expected=f"tokenizer {self.target_tokenizer[:12]}, with --cross-tokenizer"
                if self.target_tokenizer
                else "a target with the drafter's tokenizer",
                next_step="run `outlex fit` on traces of this pair, or ask for another proposal, such as TLI",
            )
        if self.proposal is not None and n_target != self.n_target:
            raise MismatchError(
                "The proposal in this artifact was fitted for another target",
                got=f"a head of {n_target} rows",
                expected=f"a head of {self.n_target} rows",
                next_step="run `outlex fit` on traces of this pair, or ask for another proposal, such as TLI",
            )

    def to_parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Config and tensors, to go into the artifact's own."""
        config, tensors = (None, {}) if self.proposal is None else self.proposal.to_parts()
        entry: dict[str, Any] = {"law": config, "n_target": self.n_target, "provenance": dict(self.provenance)}
        if self.target_tokenizer is not None:
            entry["target_tokenizer"] = self.target_tokenizer
        return entry, {_PREFIX + name: tensor for name, tensor in tensors.items()}

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> StoredProposal:
        """What `to_parts` gave; the tensors it takes are removed from `tensors`.

        Raises:
            ArtifactError: parts missing, or not those of a proposal.
        """
        names = [name for name in tensors if name.startswith(_PREFIX)]
        own = {name.removeprefix(_PREFIX): tensors.pop(name) for name in names}
        law = config["law"]
        return cls(
            proposal=None if law is None else Restoring.from_parts(law, own),
            n_target=int(config["n_target"]),
            target_tokenizer=config.get("target_tokenizer"),
            provenance=dict(config["provenance"]),
        )


def put_proposal(
    config: dict[str, Any], tensors: dict[str, Tensor], stored: StoredProposal | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An artifact's config and tensors, with the proposal among them; without one they stay as they always were."""
    if stored is None:
        return config, tensors
    entry, own = stored.to_parts()
    return {**config, "schema": _SCHEMA, "proposal": entry}, {**tensors, **own}


def take_proposal(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> StoredProposal | None:
    """The proposal in an artifact's config; its tensors are removed from `tensors`.

    Raises:
        ArtifactError: the artifact was written by a newer outlex, or the proposal is no proposal.
    """
    schema = config.get("schema", 1)
    if schema not in (1, _SCHEMA):
        raise ArtifactError(
            "The draft head was written by a newer version of outlex",
            got=f"schema {schema}",
            expected=f"schema 1 to {_SCHEMA}",
            next_step="upgrade outlex: pip install --upgrade outlex",
        )
    return None if schema == 1 else StoredProposal.from_parts(config["proposal"], tensors)
