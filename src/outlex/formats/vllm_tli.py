"""`vllm-tli`: a drafter with a vocabulary of its own, k tokens of the target's, for vLLM's `use_heterogeneous_vocab`.

vLLM matches the tokens of two tokenizers by their spelling and restricts the drafter to those both have (token-level
intersection, arXiv 2502.05202). Without a plugin it serves a reduced vocabulary if the drafter is cut on *both* sides:

    tokenizer.json       the k tokens, numbered 0 … k−1 in the order of the head's rows; merges among them
    embeddings, LM head  their k rows
    config.json          vocab_size k, special tokens renumbered

Three things follow. Embeddings are cut too, so the drafter reads every token that it lacks as its end token, and drafts
worse behind it. vLLM drafts the most probable token only. And a fitted proposal has no place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from outlex.drafters import TrimmedDrafter
from outlex.errors import ArtifactError, InputError
from outlex.formats.drafter_checkpoint import (
    EMBEDDING,
    LM_HEAD,
    DrafterCheckpoint,
    copy_files,
    drafter_checkpoint,
)
from outlex.formats.exporting import Exported, ExportRequest
from outlex.formats.tensor_files import INDEX, read_config
from outlex.formats.vllm_drafter import ARCHITECTURES, ARTIFACT, check_method, usage
from outlex.formats.writing import write_directory

__all__ = ["cut_tokenizer", "export_vllm_tli"]

_TOKENIZER = "tokenizer.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_WRITTEN = (
    "config.json",
    "generation_config.json",
    "outlex_conversion.json",
    _TOKENIZER,
    INDEX,
    "vocab.json",
    "merges.txt",
)


def export_vllm_tli(request: ExportRequest) -> Exported:
    """Write the directory.

    Raises:
        InputError: no trimmed drafter, no BPE tokenizer, a drafter without its end token, or a path that vLLM would
            misread.
        ModelError: the drafter is not found.
        ArtifactError: something is damaged, or the disk refuses; nothing is written.
        MismatchError: artifact and drafter do not belong together.
    """
    check_method(request.output)
    artifact = TrimmedDrafter.load(request.artifact)
    if artifact.proposal is not None:
        raise InputError(
            "vLLM's own TLI has no place for a fitted proposal",
            got=artifact.proposal.name,
            expected="a trimmed drafter whose drafts are drawn by TLI",
            next_step="export it with --to vllm-plugin",
        )
    base = drafter_checkpoint(request.drafter or artifact.base_source, architectures=ARCHITECTURES)
    base.head_of(artifact, n_target=request.n_target or artifact.vocab.n_target)
    ids = artifact.vocab.draft_to_target
    tokenizer = cut_tokenizer(read_config(base.directory / _TOKENIZER), ids)
    config = _config(base, ids)
    if not isinstance(config.get("eos_token_id"), int):
        raise InputError(
            "The sub-vocabulary lacks the drafter's end token, which vLLM puts in the place of unknown tokens",
            got=f"eos_token_id {base.config.get('eos_token_id')!r}",
            expected="its row among those kept",
            next_step="trim the drafter with `outlex trim`, which keeps it",
        )

    def fill(folder: Path) -> None:
        changed = {base.tensors.files[name].name for name in (EMBEDDING, LM_HEAD) if name in base.tensors}
        copy_files(base.directory, folder, skip={*_WRITTEN, *changed})
        for name in changed:
            _rewrite(base, base.directory / name, folder / name, ids)
        _write_json(folder / _TOKENIZER, tokenizer)
        _write_json(folder / "config.json", config)
        if (base.directory / INDEX).is_file():
            _write_json(
                folder / INDEX, {"metadata": {}, "weight_map": {n: p.name for n, p in base.tensors.files.items()}}
            )
        artifact.vocab.save(folder / ARTIFACT)

    write_directory(request.output, fill)
    return Exported(
        output=request.output,
        drafter=base.name,
        n_draft=artifact.n_draft,
        n_target=artifact.vocab.n_target,
        proposal="tli",
        usage=usage(request.output, use_heterogeneous_vocab=True),
        notes=(
            "vLLM drafts the most probable token only; for sampled drafts export with --to vllm-plugin",
            "the drafter reads tokens that it lacks as its end token",
        ),
    )


def cut_tokenizer(tokenizer: dict[str, Any], ids: Tensor) -> dict[str, Any]:
    """A `tokenizer.json` with some of its tokens, renumbered.

    Args:
        tokenizer: the whole one.
        ids: int64 [k], tokens to keep; entry i gets the id i.

    Raises:
        InputError: no BPE tokenizer.
        ArtifactError: an id without a token.
    """
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict):
        raise InputError(
            "Only the tokens of a BPE tokenizer can be renumbered",
            got=str(model.get("type")) if isinstance(model, dict) else "no model",
            expected="a tokenizer.json of the type BPE",
            next_step="export the drafter with --to vllm-plugin, which leaves the tokenizer alone",
        )
    new_id = {int(old): new for new, old in enumerate(ids.tolist())}
    kept = {piece: new_id[old] for piece, old in vocab.items() if old in new_id}
    added = [
        {**token, "id": new_id[token["id"]]} for token in tokenizer.get("added_tokens", []) if token["id"] in new_id
    ]
    named = {*kept.values(), *(token["id"] for token in added)}
    if len(named) != len(new_id):
        raise ArtifactError(
            "Some ids of the sub-vocabulary have no token in tokenizer.json",
            got=f"{len(new_id) - len(named)} of {len(new_id)}",
            expected="a token for each of them",
            next_step="check that drafter and artifact belong together",
        )
    merges = [merge for merge in model.get("merges", []) if _fits(merge, kept)]
    # what is put around a text names tokens by id; a drafter is only ever given ids
    cut = {
        **tokenizer,
        "model": {**model, "vocab": kept, "merges": merges},
        "added_tokens": added,
        "post_processor": None,
    }
    if model.get("unk_token") not in kept:
        cut["model"]["unk_token"] = None
    return cut


def _fits(merge: list[str] | str, kept: dict[str, int]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in kept and right in kept and left + right in kept


def _config(base: DrafterCheckpoint, ids: Tensor) -> dict[str, Any]:
    new_id = {int(old): new for new, old in enumerate(ids.tolist())}
    config = {**base.config, "vocab_size": ids.numel()}
    for key in _IDS:
        old = config.get(key)
        if old is not None:
            known = [new_id[i] for i in (old if isinstance(old, list) else [old]) if i in new_id]
            config[key] = known[0] if known else None
    return config


def _rewrite(base: DrafterCheckpoint, source: Path, target: Path, ids: Tensor) -> None:
    from safetensors.torch import save_file

    names = [name for name, where in base.tensors.files.items() if where.name == source.name]
    tensors = {name: base.tensors.tensor(name) for name in names}
    for name in (EMBEDDING, LM_HEAD, "lm_head.bias"):
        if name in tensors:
            tensors[name] = tensors[name].index_select(0, ids)
    save_file(tensors, target, metadata={"format": "pt"})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
