"""A fitted head on disk: a preview of the drafter's head, a static list that the request's tokens join, or both.

The drafter's own rows are not stored: whichever of them a step needs are read from the drafter, which is loaded anyway.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from outlex.artifact import read_artifact, write_artifact
from outlex.drafters.stored_proposal import StoredProposal, put_proposal, take_proposal
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.heads.base import DraftHead
from outlex.heads.in_context import InContextHead
from outlex.heads.linear import LinearHead
from outlex.heads.preview import PreviewHead
from outlex.heads.preview_fit import PreviewFactor
from outlex.heads.quantized_rows import QuantizedRows
from outlex.heads.request_tokens import RequestTokens
from outlex.models.output_head import output_head
from outlex.proposals.restoring import Restoring
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import facts_of

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["FittedHead", "Method", "Shortlists"]

KIND = "fitted-head"
Method = Literal["preview", "in-context", "both"]


@dataclass(frozen=True, kw_only=True)
class Shortlists:
    """How many tokens each stage of a head looks at.

    Attributes:
        n_candidates: rows that the preview's second stage scores.
        n_exact: rows that are scored exactly, besides the static ones and the request's.
        capacity: tokens of the request that are kept.
        top_m: of the target's most probable tokens, as many join a position.

    Raises:
        InputError: a number that is no integer, or out of range.
    """

    n_candidates: int = 8192
    n_exact: int = 256
    capacity: int = 2048
    top_m: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            lowest = 0 if name == "top_m" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise InputError(
                    f"The shortlist size {name} cannot be used",
                    got=repr(value),
                    expected=f"an integer >= {lowest}",
                    next_step="the defaults are good starts",
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """What `outlex fit-head` makes.

    Attributes:
        method: "preview", "in-context", or "both".
        preview: None for "in-context".
        vocab: static rows; None where there is a preview, which makes them unnecessary.
        shortlists: sizes.
        base_name, base_source: of the drafter.
        base_n_rows: rows of its head.
        head_fingerprint: of its head, see `LinearHead.fingerprint`.
        tokenizer_fingerprint: of its tokenizer.
        provenance: how it was fitted, JSON values.
        stored: how draft tokens are drawn; None where nothing was fitted.
    """

    method: Method
    preview: PreviewFactor | None = field(default=None, repr=False)
    vocab: SubVocab | None = field(default=None, repr=False)
    shortlists: Shortlists
    base_name: str
    base_source: str
    base_n_rows: int
    head_fingerprint: str
    tokenizer_fingerprint: str
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    stored: StoredProposal | None = None

    def __post_init__(self) -> None:
        wanted = {"preview": (True, False), "in-context": (False, True), "both": (True, False)}.get(self.method)
        n_preview = self.base_n_rows if self.preview is None else self.preview.n_rows
        if (self.preview is not None, self.vocab is not None) != wanted or n_preview != self.base_n_rows:
            raise ArtifactError(
                "The parts of this head do not fit each other",
                got=f"{self.method}, preview {self.preview is not None}, static rows {self.vocab is not None},"
                f" {self.base_n_rows} rows of the drafter's head, {n_preview} previewed",
                expected="static rows for 'in-context', a preview of all rows for the others",
                next_step="fit the head again with `outlex fit-head`",
            )

    @property
    def name(self) -> str:
        preview = "" if self.preview is None else f"preview-{self.preview.coarse[0].rank}"
        if self.vocab is not None:
            return f"in-context-{self.vocab.n_draft}"
        return preview if self.method == "preview" else f"{preview}+in-context"

    @property
    def n_draft(self) -> int:
        """Tokens that each position's proposal covers, at least."""
        static = 0 if self.vocab is None else self.vocab.n_draft
        return static + (0 if self.preview is None else self.shortlists.n_exact)

    @property
    def proposal(self) -> Restoring | None:
        """How draft tokens are drawn; None is TLI."""
        return None if self.stored is None else self.stored.proposal

    def describe(self) -> dict[str, Any]:
        """Sizes, fingerprints and origin, as JSON values."""
        preview = self.preview
        return {
            "method": self.method,
            "n_draft": self.n_draft,
            "base": self.base_name,
            "proposal": None if self.stored is None else self.stored.name,
            "fingerprint": self.head_fingerprint,
            "shortlists": vars(self.shortlists).copy(),
            "preview": None
            if preview is None
            else {
                "tiers": [[rows.n_rows, rows.rank, rows.storage] for rows in preview.coarse],
                "fine_rank": 0 if preview.fine is None else preview.fine.rank,
                "n_positions": preview.n_positions,
            },
            "static": None if self.vocab is None else self.vocab.n_draft,
            "provenance": dict(self.provenance),
        }

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the artifact; an existing one is replaced whole or not at all."""
        tensors: dict[str, Tensor] = {}
        vocab_config = None
        if self.vocab is not None:
            vocab_config, tensors = self.vocab.to_parts()
        preview_config = None
        if self.preview is not None:
            preview_config, parts = _preview_parts(self.preview)
            tensors |= parts
        config = {
            "method": self.method,
            "base": {
                "name": self.base_name,
                "source": self.base_source,
                "n_rows": self.base_n_rows,
                "head_fingerprint": self.head_fingerprint,
                "tokenizer_fingerprint": self.tokenizer_fingerprint,
            },
            "shortlists": vars(self.shortlists).copy(),
            "vocab": vocab_config,
            "preview": preview_config,
            "provenance": dict(self.provenance),
        }
        config, tensors = put_proposal(config, tensors, self.stored)
        write_artifact(directory, kind=KIND, config=config, tensors=tensors)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> FittedHead:
        """Read an artifact back.

        Raises:
            ArtifactError: missing, truncated, damaged, or of another kind.
        """
        artifact = read_artifact(directory, kind=KIND)
        tensors = dict(artifact.tensors)
        try:
            config: dict[str, Any] = artifact.config
            base = config["base"]
            stored = take_proposal(config, tensors)
            preview = None if config["preview"] is None else _preview_from(config["preview"], tensors)
            return cls(
                method=config["method"],
                preview=preview,
                vocab=None if config["vocab"] is None else SubVocab.from_parts(config["vocab"], tensors),
                shortlists=Shortlists(**config["shortlists"]),
                base_name=str(base["name"]),
                base_source=str(base["source"]),
                base_n_rows=int(base["n_rows"]),
                head_fingerprint=str(base["head_fingerprint"]),
                tokenizer_fingerprint=str(base["tokenizer_fingerprint"]),
                provenance=dict(config["provenance"]),
                stored=stored,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ArtifactError(
                "The fitted head lacks a part",
                got=f"{os.fspath(directory)}: {error}",
                expected="an artifact written by `outlex fit-head`",
                next_step="fit the head again",
            ) from error

    def head_for(self, base: LanguageModel, *, n_target: int) -> DraftHead:
        """The draft head, on the device of its base drafter.

        Args:
            base: the drafter this was fitted for.
            n_target: rows of the target's head.

        Raises:
            MismatchError: `base` has another tokenizer or another head.
        """
        fingerprint = facts_of(base.tokenizer).fingerprint
        if fingerprint != self.tokenizer_fingerprint:
            raise MismatchError(
                "The head was fitted for a drafter with another tokenizer",
                got=f"{base.name}, tokenizer {fingerprint[:12]}",
                expected=f"{self.base_name}, tokenizer {self.tokenizer_fingerprint[:12]}",
                next_step=f"load {self.base_source!r} as drafter, or fit a head for {base.name!r}",
            )
        return self.head_from(output_head(base), n_target=n_target)

    def head_from(self, full: LinearHead, *, n_target: int) -> DraftHead:
        """The same from the drafter's head alone.

        Raises:
            MismatchError: it is not the head that this was fitted for.
        """
        if full.n_rows != self.base_n_rows or full.fingerprint != self.head_fingerprint:
            raise MismatchError(
                "The head was fitted for other weights than this drafter's",
                got=f"{full.n_rows} rows of {full.weight.shape[1]}",
                expected=f"the head of {self.base_name}: {self.base_n_rows} rows, {self.head_fingerprint[:12]}",
                next_step=f"load {self.base_source!r} as drafter, or fit the head again",
            )
        sizes, n_rows = self.shortlists, min(full.n_rows, n_target)
        if self.preview is None:
            assert self.vocab is not None  # see __post_init__
            # there cannot be more tokens than rows, and the buffer is as large as the capacity
            capacity = max(1, min(sizes.capacity, n_rows - self.vocab.n_draft))
            return InContextHead(
                full, self.vocab, n_target=n_target, top_m=sizes.top_m, capacity=capacity, name=self.name
            )
        always = None
        if self.method == "both":
            always = RequestTokens(
                torch.empty(0, dtype=torch.int64, device=full.weight.device),
                n_tokens=n_rows,
                n_target=n_target,
                # more would leave a small head without tokens for the preview to choose from
                capacity=min(sizes.capacity, n_rows - sizes.n_exact),
            )
        return PreviewHead(
            full,
            self.preview,
            n_target=n_target,
            n_candidates=sizes.n_candidates,
            n_exact=sizes.n_exact,
            always=always,
            top_m=sizes.top_m,
            name=self.name,
        )


def _preview_parts(preview: PreviewFactor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors = {"mean": preview.mean, "basis": preview.basis, "order": preview.order}
    stages = [*preview.coarse, *([] if preview.fine is None else [preview.fine])]
    for i, rows in enumerate(stages):
        tensors |= {f"codes_{i}": rows.codes, f"scales_{i}": rows.scales, f"offsets_{i}": rows.offsets}
    config = {
        "storages": [rows.storage for rows in stages],
        "n_tiers": len(preview.coarse),
        "n_positions": preview.n_positions,
    }
    return config, tensors


def _preview_from(config: dict[str, Any], tensors: dict[str, Tensor]) -> PreviewFactor:
    stages = [
        QuantizedRows(
            storage=storage, codes=tensors[f"codes_{i}"], scales=tensors[f"scales_{i}"], offsets=tensors[f"offsets_{i}"]
        )
        for i, storage in enumerate(config["storages"])
    ]
    n_tiers = int(config["n_tiers"])
    return PreviewFactor(
        mean=tensors["mean"],
        basis=tensors["basis"],
        order=tensors["order"],
        coarse=tuple(stages[:n_tiers]),
        fine=stages[n_tiers] if len(stages) > n_tiers else None,
        n_positions=int(config["n_positions"]),
    )
