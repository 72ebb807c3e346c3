"""A trimmed drafter on disk: the map, the kept LM-head rows, and the name of the drafter they were cut from.

The input embeddings stay complete, so every token the target emits can be read by the drafter; only what it can
*propose* is limited.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from outlex.artifact import read_artifact, write_artifact
from outlex.drafters.eagle import EagleDrafter, reader_of, whole_head_of
from outlex.drafters.stored_proposal import StoredProposal, put_proposal, take_proposal
from outlex.errors import ArtifactError, MismatchError
from outlex.heads.linear import LinearHead, TrimmedHead, trim_head
from outlex.models.output_head import output_head
from outlex.proposals.restoring import Restoring
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import facts_of

if TYPE_CHECKING:
    from outlex.models.load import LanguageModel

__all__ = ["TrimmedDrafter", "trim"]

KIND = "trimmed-drafter"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrimmedDrafter:
    """A sub-vocabulary and the head rows that go with it.

    Attributes:
        vocab: which tokens are kept, and their order.
        linear: the kept rows, in that order.
        base_name: short name of the drafter.
        base_source: what `load_model` loads it by.
        base_n_rows: rows of its whole head, padding included.
        stored: how draft tokens are drawn; None where nothing was fitted.
    """

    vocab: SubVocab
    linear: LinearHead
    base_name: str
    base_source: str
    base_n_rows: int
    stored: StoredProposal | None = None

    @property
    def name(self) -> str:
        """Short name for reports."""
        return f"trimmed-{self.n_draft}"

    @property
    def n_draft(self) -> int:
        """Rows kept."""
        return self.vocab.n_draft

    @property
    def tokenizer_fingerprint(self) -> str:
        """Of the tokenizer whose ids it speaks of."""
        return self.vocab.tokenizer_fingerprint

    @property
    def proposal(self) -> Restoring | None:
        """How draft tokens are drawn; None is TLI."""
        return None if self.stored is None else self.stored.proposal

    def describe(self) -> dict[str, Any]:
        """Sizes, fingerprint and origin, as JSON values."""
        return {
            "n_draft": self.n_draft,
            "head_bytes": self.linear.n_bytes,
            "base": self.base_name,
            "proposal": None if self.stored is None else self.stored.name,
            "fingerprint": self.vocab.fingerprint,
            "provenance": dict(self.vocab.provenance),
        }

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the artifact; an existing one is replaced whole or not at all."""
        vocab_config, tensors = self.vocab.to_parts()
        tensors["head_weight"] = self.linear.weight
        if self.linear.bias is not None:
            tensors["head_bias"] = self.linear.bias
        config = {
            "base": {"name": self.base_name, "source": self.base_source, "n_rows": self.base_n_rows},
            "head": {"scale": self.linear.scale, "softcap": self.linear.softcap},
            "vocab": vocab_config,
        }
        config, tensors = put_proposal(config, tensors, self.stored)
        write_artifact(directory, kind=KIND, config=config, tensors=tensors)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> TrimmedDrafter:
        """Read an artifact back.

        Raises:
            ArtifactError: missing, truncated, corrupted, or of another kind.
        """
        artifact = read_artifact(directory, kind=KIND)
        tensors = dict(artifact.tensors)
        try:
            config: dict[str, Any] = artifact.config
            stored = take_proposal(config, tensors)
            linear = LinearHead(
                weight=tensors.pop("head_weight"),
                bias=tensors.pop("head_bias", None),
                scale=float(config["head"]["scale"]),
                softcap=float(config["head"]["softcap"]),
            )
            return cls(
                vocab=SubVocab.from_parts(config["vocab"], tensors),
                linear=linear,
                base_name=str(config["base"]["name"]),
                base_source=str(config["base"]["source"]),
                base_n_rows=int(config["base"]["n_rows"]),
                stored=stored,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                "The trimmed drafter lacks a part",
                got=f"{os.fspath(directory)}: {error}",
                expected="an artifact written by `outlex trim`",
                next_step="trim the drafter again",
            ) from error

    def head_for(self, base: LanguageModel, *, n_target: int) -> TrimmedHead:
        """The draft head, on the device and in the dtype of its base drafter.

        Args:
            base: the drafter this was cut from.
            n_target: rows of the target's head.

        Raises:
            MismatchError: `base` has another tokenizer or other head rows.
        """
        self.vocab.check_tokenizer(facts_of(base.tokenizer))
        return self.head_from(output_head(base), n_target=n_target)

    def head_from(self, full: LinearHead, *, n_target: int) -> TrimmedHead:
        """The same from the drafter's head alone.

        Raises:
            MismatchError: it has other rows than those that were kept.
        """
        expected = trim_head(full, self.vocab).linear if full.n_rows == self.base_n_rows else None
        if expected is None or not _same_rows(self.linear, expected):
            raise MismatchError(
                "The trimmed head was cut from other weights than this drafter's",
                got=f"{full.n_rows} rows of {full.weight.shape[1]}",
                expected=f"{self.base_name} ({self.base_n_rows} rows of {self.linear.weight.shape[1]})",
                next_step=f"load {self.base_source!r} as drafter, or trim this one anew",
            )
        # the rows just cut from the base have the right dtype and device, and are equal to the stored ones
        return TrimmedHead(expected, self.vocab.with_target_width(n_target))


def trim(drafter: LanguageModel | EagleDrafter, vocab: SubVocab) -> TrimmedDrafter:
    """Cut the LM-head rows of a sub-vocabulary out of a drafter.

    Raises:
        MismatchError: the sub-vocabulary was made for another tokenizer, or names rows the head lacks.
        ModelError: the drafter's head is quantised or unknown.
    """
    vocab.check_tokenizer(facts_of(reader_of(drafter).tokenizer))
    full = whole_head_of(drafter)
    return TrimmedDrafter(
        vocab=vocab,
        linear=trim_head(full, vocab).linear,
        base_name=drafter.name,
        base_source=drafter.source,
        base_n_rows=full.n_rows,
    )


def _same_rows(stored: LinearHead, cut: LinearHead) -> bool:
    if stored.weight.shape != cut.weight.shape or (stored.bias is None) != (cut.bias is None):
        return False
    if (stored.scale, stored.softcap) != (cut.scale, cut.softcap):
        return False
    pairs = [(stored.weight, cut.weight)]
    if stored.bias is not None and cut.bias is not None:
        pairs.append((stored.bias, cut.bias))
    # compare in the narrower dtype: a base loaded in bfloat16 and one loaded in float32 are the same drafter
    for a, b in pairs:
        narrow = a.dtype if a.element_size() <= b.element_size() else b.dtype
        if not torch.equal(a.to(b.device, narrow), b.to(narrow)):
            return False
    return True
