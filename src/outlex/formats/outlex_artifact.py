"""outlex's own artifacts: a sub-vocabulary, alone or inside a trimmed drafter or a fitted head."""

from __future__ import annotations

from outlex.artifact import MANIFEST, read_manifest
from outlex.drafters import FittedHead, TrimmedDrafter
from outlex.errors import ArtifactError, InputError
from outlex.formats.base import MapFile, Reading, WriteRequest
from outlex.formats.source import Source
from outlex.vocab.sub_vocab import SubVocab

__all__ = ["OutlexArtifact", "vocab_of"]

_KINDS = {
    "sub-vocab": "sub-vocabulary of outlex",
    "trimmed-drafter": "trimmed drafter of outlex",
    "fitted-head": "fitted head of outlex",
}


class OutlexArtifact:
    """The one format that carries the tokenizer's fingerprint, the must-keep tokens and where the ranking came from."""

    name = "outlex"
    suffixes = ()

    def recognise(self, source: Source) -> str | None:
        """`outlex.json`."""
        return MANIFEST if (source.path / MANIFEST).exists() else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The sub-vocabulary, in the order of its rows."""
        vocab, layout = vocab_of(source)
        return MapFile(
            format=self.name,
            path=source.path,
            ids=vocab.draft_to_target,
            n_target=reading.n_target or vocab.n_target,
            spelling="absolute",
            settled_by="outlex stores ids",
            layout=layout,
            n_tokenizer=vocab.n_tokenizer,
            tokenizer_fingerprint=vocab.tokenizer_fingerprint,
        )

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """A sub-vocabulary, bound to the tokenizer.

        Raises:
            InputError: no tokenizer.
        """
        if request.facts is None:
            raise InputError(
                "A sub-vocabulary of outlex is bound to its tokenizer, and a list of ids does not say which it is",
                expected="--tokenizer MODEL",
                next_step="give the model whose tokens these ids are",
            )
        kept = set(map_file.ids.tolist())
        SubVocab(
            draft_to_target=map_file.ids,
            n_target=request.width_for(map_file, what=self.name),
            n_tokenizer=request.facts.n_entries,
            tokenizer_fingerprint=request.facts.fingerprint,
            must_keep_ids=tuple(index for index in request.must_keep_ids if index in kept),
            provenance={"source": map_file.path.name, "format": map_file.format, "spelling": map_file.spelling},
        ).save(request.output)


def vocab_of(source: Source) -> tuple[SubVocab, str]:
    """The sub-vocabulary of an artifact, and what kind of artifact it is.

    Raises:
        ArtifactError: damaged, of an unknown kind, or a head that chooses its tokens anew at each position.
    """
    kind = read_manifest(source.path).kind
    if kind == "sub-vocab":
        return SubVocab.load(source.path), _KINDS[kind]
    if kind == "trimmed-drafter":
        return TrimmedDrafter.load(source.path).vocab, _KINDS[kind]
    vocab = FittedHead.load(source.path).vocab if kind == "fitted-head" else None
    if vocab is not None:
        return vocab, _KINDS[kind]
    raise ArtifactError(
        f"{source.path} has no list of tokens",
        got=kind,
        expected=", ".join(_KINDS),
        next_step="take an artifact of 'outlex trim'; a fitted head without a static list looks at all tokens",
    )
