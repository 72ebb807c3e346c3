"""The checkpoint of the drafter that an artifact belongs to: found, read without loading the model, held against it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outlex.drafters.artifacts import DraftHeadArtifact
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.formats.tensor_files import TensorFiles, find_tensor_files, read_config
from outlex.heads.base import DraftHead
from outlex.heads.linear import LinearHead
from outlex.models.checkpoint import check_files
from outlex.models.locate import locate
from outlex.models.options import resolve_device, resolve_dtype
from outlex.models.progress import Reporter
from outlex.models.tokenizer import quiet_transformers, read_tokenizer
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of

__all__ = ["EMBEDDING", "LM_HEAD", "DrafterCheckpoint", "copy_files", "drafter_checkpoint"]

EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LM_BIAS = "lm_head.bias"
# What travels with the weights: settings, tokenizer, chat template. Code and pickles stay behind.
_SUFFIXES = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True, kw_only=True, eq=False)
class DrafterCheckpoint:
    """A transformers checkpoint of a plain causal model.

    Attributes:
        directory: where it lies.
        name: short name.
        config: `config.json`.
        tensors: its weights, by name.
        facts: of its tokenizer.
    """

    directory: Path
    name: str
    config: dict[str, Any] = field(repr=False)
    tensors: TensorFiles = field(repr=False)
    facts: TokenizerFacts = field(repr=False)

    @property
    def is_tied(self) -> bool:
        """Whether embeddings and LM head are one matrix."""
        return LM_HEAD not in self.tensors

    @property
    def architecture(self) -> str:
        """The first of its `architectures`."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    @property
    def n_rows(self) -> int:
        """Rows of its embeddings, padding included."""
        return self.tensors.rows[EMBEDDING]

    def head(self) -> LinearHead:
        """Its LM head, read from the weights; a softcap is part of it (Gemma 2)."""
        return LinearHead(
            weight=self.tensors.tensor(EMBEDDING if self.is_tied else LM_HEAD),
            bias=self.tensors.tensor(_LM_BIAS) if _LM_BIAS in self.tensors else None,
            scale=float(self.config.get("logit_scale") or 1.0),
            softcap=float(self.config.get("final_logit_softcapping") or 0.0),
        )

    def head_of(self, artifact: DraftHeadArtifact, *, n_target: int) -> DraftHead:
        """The artifact's draft head, made of these weights.

        Raises:
            MismatchError: the artifact was made for another tokenizer or other weights.
        """
        if self.facts.fingerprint != artifact.tokenizer_fingerprint:
            raise MismatchError(
                "The artifact was made for a drafter with another tokenizer",
                got=f"{self.name}, tokenizer {self.facts.fingerprint[:12]}",
                expected=f"{artifact.base_name}, tokenizer {artifact.tokenizer_fingerprint[:12]}",
                next_step=f"give --drafter {artifact.base_source}",
            )
        return artifact.head_from(self.head(), n_target=n_target)


def drafter_checkpoint(source: str, *, architectures: Collection[str]) -> DrafterCheckpoint:
    """Find a drafter and read what can be read without its weights.

    Args:
        source: as `load_model` takes it.
        architectures: the model classes that the caller can serve.

    Raises:
        ModelError: not found.
        InputError: a model of another class, or one with quantised weights.
        ArtifactError: damaged, or pickled.
    """
    # the type of weights in which a conversion from GGUF is most likely here already
    dtype = resolve_dtype("auto", device=resolve_device("auto"))
    located = locate(source, dtype=dtype, cache_dir=None, report=Reporter(enabled=False))
    with quiet_transformers():
        check_files(located.directory)
        facts = facts_of(read_tokenizer(located.directory))
    found = DrafterCheckpoint(
        directory=located.directory,
        name=located.name,
        config=read_config(located.directory / "config.json"),
        tensors=find_tensor_files(located.directory),
        facts=facts,
    )
    if found.architecture not in architectures or found.config.get("quantization_config") is not None:
        kind = found.architecture or "no architectures"
        raise InputError(
            f"{found.name} cannot be exported",
            got=kind if found.config.get("quantization_config") is None else f"{kind}, quantised",
            expected=f"plain weights of {', '.join(architectures)}",
            next_step="take a drafter of these families, or ask for this one in an issue of outlex",
        )
    if EMBEDDING not in found.tensors:
        raise ArtifactError(
            f"The checkpoint of {found.name} has no embeddings under their usual name",
            got=", ".join(sorted(found.tensors.files)[:3]),
            expected=EMBEDDING,
            next_step="save the model again with transformers' save_pretrained",
        )
    return found


def copy_files(source: Path, folder: Path, *, skip: Collection[str]) -> None:
    """Settings, tokenizer and weights of a checkpoint: small files are copied, weights linked where that works.

    Args:
        source: the checkpoint.
        folder: where they go.
        skip: names that the caller writes itself.
    """
    for file in sorted(source.iterdir()):
        if file.name in skip or not file.is_file():
            continue
        if file.suffix == ".safetensors":
            try:
                os.link(file.resolve(), folder / file.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, folder / file.name)
        elif file.suffix in _SUFFIXES:
            shutil.copyfile(file, folder / file.name)
