"""EAGLE drafters on disk: read in three spellings, written as the speculators library reads them.

    named_parts             EAGLE-3's own              speculators, EAGLE-3     speculators, EAGLE
    fc.weight               fc.weight                  fc.weight                fusion_fc.weight
    layers.0.mlp.…          midlayer.mlp.…             layers.0.mlp.…           transformer.mlp.…
    norm.weight             norm.weight                norm.weight              (none)

`embed_tokens.weight` and `lm_head.weight` are there if they are not the target's; `d2t` (offsets) and `t2d` (mask) if
the draft vocabulary is smaller than the target's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.drafters.eagle import EagleDrafter
from outlex.eagle.checkpoint import EagleCheckpoint
from outlex.eagle.module import EagleModule
from outlex.errors import ArtifactError
from outlex.formats.base import Reading
from outlex.formats.eagle3 import read_draft_map
from outlex.formats.eagle_settings import is_eagle3, is_speculators, own_section, settings_of, written_settings
from outlex.formats.source import Source
from outlex.formats.writing import write_directory
from outlex.models import check_source

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["has_draft_map", "is_eagle_directory", "load_eagle", "load_pair", "read_eagle", "save_eagle"]

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_MAP = ("d2t", "t2d")
# Of the target, or computed from the config: nothing that belongs to the drafter.
_NOT_OURS = ("verifier_lm_head.weight", "verifier_norm.weight", "rotary_emb.inv_freq")
_EAGLE_NAMES = {"fc.": "fusion_fc.", "layers.0.": "transformer."}


def is_eagle_directory(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the directory of an EAGLE or EAGLE-3 checkpoint, and not of a whole model.

    Raises:
        ArtifactError: its `config.json` is damaged.
    """
    place = Path(path).expanduser()
    source = Source(place)
    if not place.is_dir() or not source.is_checkpoint:
        return False
    if is_speculators(source):
        return source.config["speculators_model_type"] in ("eagle", "eagle3")
    return "speculators_config" not in source.config and (is_eagle3(source) or source.has_tensor("fc.weight"))


def has_draft_map(path: str | os.PathLike[str]) -> bool:
    """Whether the directory of an EAGLE drafter says which tokens it drafts, be it all of them.

    Raises:
        ArtifactError: its `config.json` is damaged.
    """
    source = Source(Path(path).expanduser())
    return source.config.get("draft_vocab_size") is not None or any(map(source.has_tensor, _MAP))


def read_eagle(path: str | os.PathLike[str], *, target: LanguageModel | None = None) -> EagleCheckpoint:
    """Read a checkpoint, with the dtype that it was stored in, on the CPU.

    Args:
        path: a directory with `config.json` and weights.
        target: the model that it is to draft for; None believes what the checkpoint says about it.

    Raises:
        MismatchError: it was made for another target.
        ArtifactError: damaged, another kind of drafter, tensors missing, too many or of another shape.
        VocabError: its map is none, reaches beyond the target's vocabulary, or can be read in two ways.
    """
    source = Source(Path(path).expanduser())
    if not is_eagle_directory(path):
        raise ArtifactError(
            f"{path} is no EAGLE checkpoint",
            got="speculators_model_type " + repr(source.config["speculators_model_type"])
            if is_speculators(source)
            else "a directory"
            if source.path.is_dir()
            else "no directory",
            expected="a directory with config.json and the weights of an EAGLE or EAGLE-3 drafter",
            next_step="check the path; 'outlex inspect' says what it is",
        )
    names = {_plain(name): name for name in source.tensors.files if not name.endswith(_NOT_OURS)}
    ids = _draft_ids(source)
    config = settings_of(source, has_part=names.__contains__, n_draft=None if ids is None else len(ids), target=target)
    module = EagleModule(config)
    _fill(module, source, names)
    provenance = own_section(source).get("provenance")
    return EagleCheckpoint(
        module=module,
        embedding=_matrix(source, names.get(_EMBEDDING)),
        head=_matrix(source, names.get(_HEAD)),
        draft_to_target=ids,
        provenance=provenance if isinstance(provenance, dict) else {},
    )


def load_eagle(path: str | os.PathLike[str], *, target: LanguageModel) -> EagleDrafter:
    """A checkpoint as a drafter for a loaded target, on its device and in its dtype.

    Raises:
        MismatchError, ArtifactError, VocabError: see `read_eagle`.
    """
    place = Path(path).expanduser().absolute()
    return EagleDrafter(read_eagle(place, target=target), target, name=place.name, source=str(place))


def load_pair(
    target: str, drafter: str | None, *, load: Callable[[str], LanguageModel]
) -> tuple[LanguageModel, LanguageModel | EagleDrafter | None]:
    """A target and what `--drafter` names: the directory of an EAGLE drafter, or a model; the target itself once.

    Args:
        target, drafter: what the user wrote; None is no drafter.
        load: how models are loaded.

    Raises:
        ModelError: there is no such model; a wrong name of either ends it before anything is loaded.
        MismatchError, ArtifactError, VocabError: see `read_eagle`.
    """
    check_source(target)
    is_eagle = drafter is not None and is_eagle_directory(drafter)
    if drafter is not None and not is_eagle:
        check_source(drafter)
    loaded = load(target)
    if drafter is None or drafter == target:
        return loaded, None if drafter is None else loaded
    return loaded, load_eagle(drafter, target=loaded) if is_eagle else load(drafter)


def save_eagle(
    directory: str | os.PathLike[str],
    checkpoint: EagleCheckpoint,
    *,
    verifier: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a directory that `read_eagle` and the speculators library read, whole or not at all.

    Args:
        directory: it does not exist, or is empty.
        checkpoint: what to write; tensors keep their dtype.
        verifier: what speculators loads the target by; None takes the target's source, or its Hub id.
        provenance: how it was made, JSON values; None keeps the checkpoint's.

    Raises:
        ArtifactError: the directory holds something, or the disk refuses.
    """
    from safetensors.torch import save_file

    config = checkpoint.config
    parts = {name: part.detach() for name, part in checkpoint.module.named_parts().items()}
    o_bias = "layers.0.self_attn.o_proj.bias"
    if config.qkv_bias and o_bias not in parts:
        # the Llama layer that speculators builds has all four biases or none
        parts[o_bias] = parts["fc.weight"].new_zeros(config.hidden_size)
    if config.kind == "eagle":
        parts = {_renamed(name): part for name, part in parts.items()}
    for name, matrix in ((_EMBEDDING, checkpoint.embedding), (_HEAD, checkpoint.head)):
        if matrix is not None:
            parts[name] = matrix.detach()
    if checkpoint.draft_to_target is not None:
        # speculators takes rows of a head by the mask, that is in the order of their ids
        ids, order = checkpoint.draft_to_target.cpu().sort()
        if checkpoint.head is not None:
            parts[_HEAD] = parts[_HEAD][order.to(parts[_HEAD].device)]
        mask = torch.zeros(config.target.n_rows, dtype=torch.bool)
        mask[ids] = True
        parts |= {"d2t": ids - torch.arange(len(ids)), "t2d": mask}
    settings = written_settings(
        config,
        verifier=verifier,
        dtype=str(checkpoint.module.fc.weight.dtype).removeprefix("torch."),
        provenance=checkpoint.provenance if provenance is None else provenance,
    )

    def fill(folder: Path) -> None:
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        stored = {name: part.cpu().clone().contiguous() for name, part in parts.items()}
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})

    write_directory(Path(directory), fill)


def _plain(name: str) -> str:
    """A tensor's name as `EagleModule.named_parts` has it."""
    name = name.removeprefix("model.")
    for ours, theirs in (("layers.0.", "midlayer."), *_EAGLE_NAMES.items()):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _renamed(name: str) -> str:
    for ours, theirs in _EAGLE_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _draft_ids(source: Source) -> Tensor | None:
    """Absolute ids int64 [n_draft]; None if the head covers the whole vocabulary."""
    has_map = any(name in source.tensors for name in _MAP)
    if not has_map and source.config.get("draft_vocab_size") is None:
        return None
    found = read_draft_map(source, Reading(), name="eagle", layout="EAGLE checkpoint")
    return found.ids if has_map else None


def _fill(module: EagleModule, source: Source, names: Mapping[str, str]) -> None:
    parts = module.named_parts()
    known = {*parts, _EMBEDDING, _HEAD, *_MAP}
    missing, extra = sorted(set(parts) - set(names)), sorted(set(names) - known)
    if missing or extra:
        raise ArtifactError(
            f"The weights of {source.path} are not those of its config",
            got=f"missing: {', '.join(missing)[:200] or 'none'}; too many: {', '.join(extra)[:200] or 'none'}",
            expected=f"{len(parts)} tensors of one layer, besides embedding, head and map",
            next_step="take weights and config.json from the same place",
        )
    dtypes = set()
    with torch.no_grad():
        loaded = {}
        for name, part in parts.items():
            tensor = source.tensors.tensor(names[name])
            if tensor.shape != part.shape or not tensor.is_floating_point():
                raise ArtifactError(
                    f"A weight of {source.path} is not what its config says",
                    got=f"{names[name]}: {tensor.dtype} {list(tensor.shape)}",
                    expected=f"floating-point numbers {list(part.shape)}",
                    next_step="take weights and config.json from the same place, before quantisation",
                )
            loaded[name] = tensor
            dtypes.add(tensor.dtype)
        if len(dtypes) > 1:
            raise ArtifactError(
                f"The weights of {source.path} have several dtypes",
                got=", ".join(sorted(str(dtype) for dtype in dtypes)),
                expected="one for all",
                next_step="export the drafter again in one dtype, bfloat16 for example",
            )
        module.to(dtypes.pop())
        for name, part in module.named_parts().items():
            part.copy_(loaded[name])


def _matrix(source: Source, name: str | None) -> Tensor | None:
    if name is None:
        return None
    tensor = source.tensors.tensor(name)
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise ArtifactError(
            f"{name} of {source.path} cannot be used",
            got=f"{tensor.dtype} {list(tensor.shape)}",
            expected="a matrix of floating-point numbers",
            next_step="take the checkpoint before quantisation",
        )
    return tensor
