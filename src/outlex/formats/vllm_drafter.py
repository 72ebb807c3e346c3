"""`vllm-plugin`: a draft model directory that vLLM loads with the plugin `outlex.vllm_plugin`.

config.json          the drafter's, with the plugin's architecture and the width of the target's head
*.safetensors        the drafter's own weights, linked or copied
tokenizer files      the drafter's
outlex/              the artifact: kept rows or preview, map, proposal, with checksums
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from outlex.artifact import MANIFEST
from outlex.drafters import FittedHead, TrimmedDrafter, load_draft_head
from outlex.errors import InputError, MismatchError
from outlex.formats.base import MapFile, Reading
from outlex.formats.drafter_checkpoint import DrafterCheckpoint, copy_files, drafter_checkpoint
from outlex.formats.exporting import Exported, ExportRequest
from outlex.formats.outlex_artifact import vocab_of
from outlex.formats.source import Source
from outlex.formats.writing import write_directory
from outlex.proposals.restoring import Restoring

__all__ = [
    "ARCHITECTURES",
    "ARTIFACT",
    "VllmDrafter",
    "check_can_be_served",
    "check_method",
    "export_vllm_drafter",
    "usage",
]

# Class of the drafter in vLLM and transformers -> class of the plugin.
ARCHITECTURES = {
    "LlamaForCausalLM": "OutlexLlamaForCausalLM",
    "Qwen2ForCausalLM": "OutlexQwen2ForCausalLM",
    "Qwen3ForCausalLM": "OutlexQwen3ForCausalLM",
    "Gemma2ForCausalLM": "OutlexGemma2ForCausalLM",
    "Gemma3ForCausalLM": "OutlexGemma3ForCausalLM",
}
ARTIFACT = "outlex"  # folder of the artifact, and key of our settings in config.json
_WRITTEN = ("config.json", "outlex_conversion.json", MANIFEST)
# vLLM takes a draft model whose path holds one of these for a drafter of another kind.
_OTHER_METHODS = ("eagle-", "eagle3", "dflash", "dspark")


class VllmDrafter:
    """Recognised and read like a map; written by `export_vllm_drafter`, which needs the weights as well."""

    name = "vllm-plugin"

    def recognise(self, source: Source) -> str | None:
        """An architecture of the plugin in `config.json`, and the artifact beside it."""
        names = source.config.get("architectures")
        known = isinstance(names, list) and any(name in ARCHITECTURES.values() for name in names)
        return f"architecture {names[0]}" if isinstance(names, list) and known else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The sub-vocabulary, in the order of its rows."""
        vocab, _ = vocab_of(Source(source.path / ARTIFACT))
        width = source.config.get("vocab_size")
        return MapFile(
            format=self.name,
            path=source.path,
            ids=vocab.draft_to_target,
            n_target=reading.n_target or (width if type(width) is int else vocab.n_target),
            spelling="absolute",
            settled_by="outlex stores ids",
            layout="draft model for the vLLM plugin of outlex",
            n_tokenizer=vocab.n_tokenizer,
            tokenizer_fingerprint=vocab.tokenizer_fingerprint,
            config=source.config,
        )


def export_vllm_drafter(request: ExportRequest) -> Exported:
    """Write the directory.

    Raises:
        InputError: an artifact, a drafter or a path that vLLM or the plugin cannot take.
        ModelError: the drafter is not found.
        ArtifactError: something is damaged, or the disk refuses; nothing is written.
        MismatchError: artifact and drafter do not belong together, or the target has another tokenizer.
    """
    check_method(request.output)
    artifact = load_draft_head(request.artifact)
    check_can_be_served(artifact)
    base = drafter_checkpoint(request.drafter or artifact.base_source, architectures=ARCHITECTURES)
    n_target = request.n_target or _target_width(artifact, base)
    if artifact.stored is not None:
        artifact.stored.check_target(n_target)
    if isinstance(artifact, FittedHead) and base.n_rows > n_target:
        raise InputError(
            "A preview needs every row of its drafter, and vLLM loads as many as the target has",
            got=f"{base.n_rows} rows, a target of {n_target}",
            expected=f"a target of {base.n_rows} rows or more",
            next_step="trim the drafter with `outlex trim` instead",
        )
    base.head_of(artifact, n_target=n_target)

    def fill(folder: Path) -> None:
        copy_files(base.directory, folder, skip=_WRITTEN)
        artifact.save(folder / ARTIFACT)
        text = json.dumps(_config(base, artifact, n_target), indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")

    write_directory(request.output, fill)
    restores = isinstance(artifact.proposal, Restoring)
    notes = ["the plugin must be installed where vLLM runs, on every node: pip install outlex"]
    if restores:
        notes.append("draft_sample_method greedy makes this proposal void; probabilistic is in the line above")
    return Exported(
        output=request.output,
        drafter=base.name,
        n_draft=artifact.n_draft,
        n_target=n_target,
        proposal="tli" if artifact.stored is None else artifact.stored.name,
        usage=usage(request.output, draft_sample_method="probabilistic"),
        notes=tuple(notes),
    )


def _target_width(artifact: TrimmedDrafter | FittedHead, base: DrafterCheckpoint) -> int:
    """The width that an artifact was made for."""
    if artifact.stored is not None:
        return artifact.stored.n_target
    return base.n_rows if artifact.vocab is None else artifact.vocab.n_target


def check_can_be_served(artifact: TrimmedDrafter | FittedHead) -> None:
    """Refuse what no draft model of vLLM can be, whatever its drafter and wherever it runs.

    Raises:
        InputError: a head that follows the request.
        MismatchError: an artifact for a target with another tokenizer.
    """
    if isinstance(artifact, FittedHead) and artifact.method != "preview":
        raise InputError(
            "vLLM cannot serve a head that follows the request",
            got=artifact.method,
            expected="a trimmed drafter, or a fitted head of the method preview",
            next_step="vLLM does not show a draft model what the target verified; fit with --method preview",
        )
    if artifact.stored is not None and artifact.stored.target_tokenizer is not None:
        raise MismatchError(
            "vLLM's draft models have the target's tokenizer, and this one drafts for a target with another",
            got=f"an artifact fitted for tokenizer {artifact.stored.target_tokenizer[:12]}",
            expected=f"one for the drafter's own, {artifact.tokenizer_fingerprint[:12]}",
            next_step="verify and serve such pairs with outlex itself, or with vLLM's use_heterogeneous_vocab",
        )


def check_method(output: Path) -> None:
    """Refuse a path that vLLM would read a method into.

    Raises:
        InputError: it holds such a word.
    """
    text = str(output.resolve()).lower()
    found = [word for word in _OTHER_METHODS if word in text]
    if found:
        raise InputError(
            "vLLM would take a draft model at this path for another kind of drafter",
            got=f"{output}: {found[0]!r} in its path",
            expected=f"a path without {', '.join(_OTHER_METHODS)}",
            next_step="choose another directory with -o",
        )


def usage(output: Path, **settings: object) -> str:
    """What vLLM is started with to draft from `output`."""
    config = {"model": str(output.absolute()), "method": "draft_model", "num_speculative_tokens": 4, **settings}
    return f"--speculative-config '{json.dumps(config)}'"


def _config(base: DrafterCheckpoint, artifact: TrimmedDrafter | FittedHead, n_target: int) -> dict[str, Any]:
    return {
        **base.config,
        "architectures": [ARCHITECTURES[base.architecture]],
        "vocab_size": n_target,  # vLLM wants the target's; the plugin fits the embeddings to it
        "tie_word_embeddings": base.is_tied,
        ARTIFACT: {
            "head": artifact.name,
            "n_draft": artifact.n_draft,
            "proposal": "tli" if artifact.stored is None else artifact.stored.name,
            "drafter": base.name,
        },
    }
