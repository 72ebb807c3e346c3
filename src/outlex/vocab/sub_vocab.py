"""The draft vocabulary D: which target ids the draft head has rows for, and in which order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from outlex.artifact import read_artifact, write_artifact
from outlex.errors import ArtifactError, InputError, MismatchError, VocabError
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.selection import check_size, choose, select_ids
from outlex.vocab.token_map import TokenMap
from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["SubVocab"]

KIND = "sub-vocab"
_CONFIG = {
    "fingerprint": str,
    "n_target": int,
    "n_tokenizer": int,
    "provenance": dict,
    "tokenizer_fingerprint": str,
}
_TENSORS = {"draft_to_target", "must_keep_ids"}
_REBUILD = "build the sub-vocabulary again with 'outlex trim' for this tokenizer"


@dataclass(frozen=True, kw_only=True, eq=False)
class SubVocab:
    """A draft vocabulary, bound to one tokenizer.

    Rows are in rank order, hottest first: a smaller vocabulary is the must-keep ids and a prefix of
    the others.

    Attributes:
        draft_to_target: int64 CPU ``[n_draft]``, the absolute target id of each draft row; copied.
        n_target: width of the target's head, padding included.
        n_tokenizer: entries of the tokenizer; ids from there on are padding.
        tokenizer_fingerprint: `TokenizerFacts.fingerprint`.
        must_keep_ids: ids that every smaller version keeps, ascending.
        provenance: JSON object that says where the ranking came from.

    Raises:
        VocabError: ids repeated, out of range, in the padding or missing, or a wrong dtype or shape.
    """

    draft_to_target: Tensor = field(repr=False)
    n_target: int
    n_tokenizer: int
    tokenizer_fingerprint: str
    must_keep_ids: tuple[int, ...] = field(default=(), repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_ids(self.draft_to_target, n_target=self.n_target, n_tokenizer=self.n_tokenizer)
        object.__setattr__(self, "draft_to_target", self.draft_to_target.detach().clone().contiguous())
        object.__setattr__(self, "must_keep_ids", tuple(sorted(set(self.must_keep_ids))))
        missing = sorted(set(self.must_keep_ids).difference(self.draft_to_target.tolist()))
        if missing:
            raise VocabError(
                "The sub-vocabulary lacks ids that it has to keep",
                got=f"{len(missing)} missing, for example {missing[:3]}",
                expected="every must-keep id among the rows",
                next_step="use SubVocab.from_ranking, which always adds them",
            )
        try:
            provenance = json.loads(json.dumps(dict(self.provenance), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise VocabError(
                "The provenance is not a JSON object",
                got=error,
                expected="strings, finite numbers, booleans, None, lists and dicts",
                next_step="convert the values before passing them",
            ) from error
        object.__setattr__(self, "provenance", provenance)

    @classmethod
    def from_ranking(
        cls,
        ranking: Sequence[int] | Tensor,
        *,
        size: int,
        facts: TokenizerFacts,
        n_target: int,
        must_keep: MustKeep,
        provenance: Mapping[str, Any],
    ) -> SubVocab:
        """The ``size`` hottest ids of a ranking; must-keep ids take the place of the coldest.

        A ranking that is too short goes on with the remaining ids in ascending order, because the
        merge order of BPE is itself a list by frequency. ``provenance["selection"]`` records how many
        rows came from where. A must-keep id beyond the target's head has no row to copy and is left
        out: the target can never say it, and the same holds for ranked ids.

        Args:
            ranking: ids, hottest first, each at most once; int64 ``[n]`` if a tensor.
            size: rows of the result.
            facts: of the tokenizer that the ids belong to.
            n_target: width of the target's head, padding included.
            must_keep: see `outlex.vocab.must_keep.must_keep`.
            provenance: JSON object that says where the ranking came from.

        Raises:
            InputError: ``size`` is not possible.
            VocabError: the ranking repeats an id or names one that the tokenizer does not have.
        """
        chosen = select_ids(ranking, size=size, facts=facts, n_target=n_target, must_keep_ids=must_keep.ids)
        return cls(
            draft_to_target=chosen.ids,
            n_target=n_target,
            n_tokenizer=facts.n_entries,
            tokenizer_fingerprint=facts.fingerprint,
            must_keep_ids=tuple(chosen.kept.tolist()),
            provenance={**provenance, "selection": chosen.origin},
        )

    @property
    def n_draft(self) -> int:
        """Rows of the draft head."""
        return self.draft_to_target.numel()

    @cached_property
    def target_to_draft(self) -> Tensor:
        """int64 CPU ``[n_target]``: row of each target id, -1 when it has none."""
        return self.token_map("cpu").target_to_draft

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the tokenizer and the ids in their order; the padding does not count."""
        digest = hashlib.sha256(self.tokenizer_fingerprint.encode())
        digest.update(self.draft_to_target.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def coverage(self, counts: Tensor) -> float:
        """Share of ``counts [n_tokenizer]`` (any number dtype, at least 0) that falls inside D.

        Raises:
            InputError: another shape, or counts that are negative, not finite or all zero.
        """
        fine = counts.shape == (self.n_tokenizer,)
        weights = counts.to(device="cpu", dtype=torch.float64) if fine else counts
        total = float(weights.sum()) if fine and bool((weights >= 0).all()) else 0.0
        if not 0 < total < float("inf"):
            raise InputError(
                "Coverage needs one count for each tokenizer entry",
                got=f"{counts.dtype} {list(counts.shape)}, sum {total}",
                expected=f"[{self.n_tokenizer}], finite, at least 0, not all zero",
                next_step="count the tokens of some text with outlex.vocab.ranking.count_tokens",
            )
        return float(weights[self.draft_to_target].sum()) / total

    def token_map(self, device: torch.device | str) -> TokenMap:
        """The map between rows and ids as tensors on ``device``."""
        return TokenMap(self.draft_to_target, n_draft=self.n_draft, n_target=self.n_target).to(device)

    def with_target_width(self, n_target: int) -> SubVocab:
        """The same ids for a head with other padding (152,064 rows in place of 151,936).

        Raises:
            VocabError: some id does not fit.
        """
        return dataclasses.replace(self, n_target=n_target)

    def resized(self, size: int) -> SubVocab:
        """The ``size`` hottest of these ids, all must-keep ids among them.

        Raises:
            InputError: larger than this vocabulary, which does not know what comes next, or smaller
                than the must-keep ids.
        """
        if size == self.n_draft and type(size) is int:
            return self
        check_size(size, smallest=max(1, len(self.must_keep_ids)), largest=self.n_draft)
        must = torch.zeros(self.n_tokenizer, dtype=torch.bool)
        must[torch.tensor(self.must_keep_ids, dtype=torch.int64)] = True
        return dataclasses.replace(
            self,
            draft_to_target=choose(self.draft_to_target, must, size),
            provenance={**self.provenance, "resized_from": self.n_draft},
        )

    def check_tokenizer(self, facts: TokenizerFacts) -> None:
        """Check that the ids mean the same to ``facts``; it may have more entries at the end.

        Raises:
            MismatchError: it is another tokenizer.
        """
        n_shared = min(self.n_tokenizer, facts.n_entries)
        if n_shared < self.n_tokenizer or facts.fingerprint_of_first(n_shared) != self.tokenizer_fingerprint:
            raise MismatchError(
                "The sub-vocabulary was made for another tokenizer",
                got=f"{facts.n_entries} entries, fingerprint {facts.fingerprint[:12]}",
                expected=f"{self.n_tokenizer} entries, fingerprint {self.tokenizer_fingerprint[:12]}",
                next_step=_REBUILD,
            )

    def to_parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Config (a JSON object) and tensors, to store alone or inside another artifact."""
        config = {
            "fingerprint": self.fingerprint,
            "n_target": self.n_target,
            "n_tokenizer": self.n_tokenizer,
            "provenance": dict(self.provenance),
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
        }
        must_keep_ids = torch.tensor(self.must_keep_ids, dtype=torch.int64)
        return config, {"draft_to_target": self.draft_to_target, "must_keep_ids": must_keep_ids}

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SubVocab:
        """What `to_parts` gave.

        Raises:
            ArtifactError: parts missing, too many, or not those of one valid sub-vocabulary.
        """
        fine = (
            isinstance(config, Mapping)
            and set(config) == set(_CONFIG)
            and all(type(config[key]) is expected for key, expected in _CONFIG.items())
            and set(tensors) == _TENSORS
        )
        if not fine:
            raise _invalid(f"config {config!r:.200}, tensors {sorted(tensors)}")
        try:
            restored = cls(
                draft_to_target=tensors["draft_to_target"],
                n_target=config["n_target"],
                n_tokenizer=config["n_tokenizer"],
                tokenizer_fingerprint=config["tokenizer_fingerprint"],
                must_keep_ids=tuple(tensors["must_keep_ids"].flatten().tolist()),
                provenance=config["provenance"],
            )
        except VocabError as error:
            raise _invalid(f"{error.what}: {error.got}") from error
        if restored.fingerprint != config["fingerprint"]:
            raise _invalid(f"fingerprint {config['fingerprint']:.80}, contents {restored.fingerprint}")
        return restored

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write an artifact of kind ``sub-vocab``; see `outlex.artifact.write_artifact`."""
        config, tensors = self.to_parts()
        write_artifact(directory, kind=KIND, config=config, tensors=tensors)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> SubVocab:
        """Read what `save` wrote.

        Raises:
            ArtifactError: missing, damaged, of another kind, or not a valid sub-vocabulary.
        """
        artifact = read_artifact(directory, kind=KIND)
        return cls.from_parts(artifact.config, artifact.tensors)


def _check_ids(ids: Tensor, *, n_target: int, n_tokenizer: int) -> None:
    if type(n_target) is not int or type(n_tokenizer) is not int or not isinstance(ids, Tensor):
        raise VocabError(
            "A sub-vocabulary needs a tensor of ids and two whole numbers",
            got=f"{type(ids).__name__}, n_target={n_target!r}, n_tokenizer={n_tokenizer!r}",
            expected="a tensor, and two of int",
            next_step="convert them before passing them",
        )
    if ids.dtype != torch.int64 or ids.ndim != 1 or ids.device.type != "cpu" or not ids.numel():
        raise VocabError(
            "draft_to_target has the wrong dtype, shape or device, or is empty",
            got=f"{ids.dtype} {list(ids.shape)} on {ids.device}",
            expected="torch.int64 [n_draft] on cpu, n_draft at least 1",
            next_step="pass one absolute target id for each draft row",
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= min(n_tokenizer, n_target):
        in_padding = low >= 0 and n_tokenizer <= high < n_target
        raise VocabError(
            f"draft_to_target has ids {'in the padding of the head' if in_padding else 'out of range'}",
            got=f"ids from {low} to {high}; {n_tokenizer} tokenizer entries, head of {n_target} rows",
            expected=f"ids from 0 to {min(n_tokenizer, n_target) - 1}",
            next_step=_REBUILD,
        )
    n_repeated = ids.numel() - int(torch.unique(ids).numel())
    if n_repeated:
        raise VocabError(
            "draft_to_target repeats ids",
            got=f"{n_repeated} repeated",
            expected="every id at most once",
            next_step=_REBUILD,
        )


def _invalid(got: str) -> ArtifactError:
    return ArtifactError(
        "The stored sub-vocabulary is not valid",
        got=got,
        expected="what SubVocab.save writes",
        next_step=_REBUILD,
    )
