"""A drafter's checkpoint cut to a smaller draft vocabulary: head rows, map, and the one number in its config.

Everything else is copied as it is. A mask `t2d` is added where there was none: it proves how d2t is to be read. Rows
come out in the order of their ids, which every engine reads and speculators takes for granted.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from outlex.errors import ArtifactError, InputError
from outlex.formats.base import MapFile, Reading
from outlex.formats.registry import read_map
from outlex.formats.tensor_files import INDEX, TensorFiles, find_tensor_files, read_config
from outlex.formats.writing import write_directory
from outlex.vocab.selection import check_size, choose

__all__ = ["Retrimmed", "retrim"]

_FORMATS = ("eagle3-d2t", "speculators")
# Tensors with one row for each entry of the map.
_HEADS = ("lm_head.weight", "lm_head.bias", "verifier_lm_head.weight")
_SINGLE, _PICKLED = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrimmed:
    """What was cut.

    Attributes:
        before: the map of the checkpoint as it was.
        ids: int64 ``[size]``, absolute ids of the rows kept, ascending.
        absent: ids that were wanted and have no row in the checkpoint, must-keep ids first.
    """

    before: MapFile
    ids: Tensor = field(repr=False)
    absent: tuple[int, ...] = field(repr=False)


def retrim(
    path: Path,
    *,
    order: Tensor,
    size: int | None,
    must_keep_ids: tuple[int, ...],
    output: Path,
    reading: Reading | None = None,
) -> Retrimmed:
    """Cut an EAGLE-3 or speculators checkpoint to fewer draft tokens.

    Args:
        path: directory of the checkpoint; it is only read.
        order: int64 ``[n]``, ids from hottest to coldest. Ids without a row are passed over; rows that it does not name
            come last, in their old order.
        size: rows to keep, must-keep ids among them; None keeps what `order` names and the must-keep ids.
        must_keep_ids: ids that stay if they have a row.
        output: a directory that does not exist.
        reading: of the old map, see `read_map`.

    Raises:
        InputError: another format, a size that is not possible, or an output inside the checkpoint.
        ArtifactError: damaged, or a head whose rows cannot be cut; nothing is written.
        VocabError: the map is none, or can be read in two ways.
    """
    before = read_map(path, reading)
    if before.format not in _FORMATS or not path.is_dir() or not before.config:
        raise InputError(
            "Only the checkpoint of an EAGLE-3 or speculators drafter can be trimmed again",
            got=f"{path}: {before.layout}",
            expected="a directory with config.json and weights",
            next_step="give the drafter's directory; a list alone is shortened with 'outlex trim --tokens'",
        )
    if path.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(
            "The output lies inside the checkpoint that is read",
            got=output,
            next_step="choose another directory with -o",
        )
    width = before.n_target
    if width is None:
        raise InputError(
            "The drafter does not say how wide the target's head is",
            got=f"{path}: no vocab_size, no t2d",
            expected="--n-target N",
            next_step="give --n-target with the vocab_size of the target's config.json",
        )
    tensors = find_tensor_files(path)
    _check_head(tensors, before)
    row_of = torch.full((width,), -1, dtype=torch.int64)
    row_of[before.ids] = torch.arange(before.n_draft)
    must = torch.zeros(width, dtype=torch.bool)
    wanted = torch.tensor(must_keep_ids, dtype=torch.int64)
    must[_with_row(wanted, row_of)] = True
    listed = _with_row(order, row_of)
    is_listed = torch.zeros(width, dtype=torch.bool)
    is_listed[listed] = True
    size = int((must | is_listed).sum()) if size is None else size
    check_size(size, smallest=max(1, int(must.sum())), largest=before.n_draft)
    ids = choose(torch.cat((listed, before.ids[~is_listed[before.ids]])), must, size).sort().values

    def fill(folder: Path) -> None:
        _write(path, folder, tensors, rows=row_of[ids], ids=ids, width=width)
        again = read_map(folder)
        if not torch.equal(again.ids, ids):
            raise ArtifactError("The checkpoint written reads differently", got=again, next_step="report this")

    write_directory(output, fill)
    every = torch.cat((wanted, order))
    inside = (every >= 0) & (every < width)
    lost = every[~inside | (row_of[every.clamp(0, width - 1)] < 0)]
    return Retrimmed(before=before, ids=ids, absent=tuple(dict.fromkeys(lost.tolist())))


def _with_row(ids: Tensor, row_of: Tensor) -> Tensor:
    inside = ids[(ids >= 0) & (ids < row_of.numel())]
    return inside[row_of[inside] >= 0]


def _check_head(tensors: TensorFiles, before: MapFile) -> None:
    head = [name for name in tensors.files if name.startswith("lm_head.")]
    odd = [name for name in head if name not in _HEADS]
    problem = None
    if "lm_head.weight" not in head:
        problem = "no lm_head.weight: the head is the target's, or tied to the embeddings"
    elif odd:
        problem = f"{', '.join(odd)[:80]}: a quantised head"
    elif not tensors.tensor("lm_head.weight").is_floating_point() or tensors.tensor("lm_head.weight").ndim != 2:
        problem = f"lm_head.weight {tensors.shapes['lm_head.weight']}"
    wrong = [name for name in _HEADS if name in tensors and tensors.rows[name] != before.n_draft]
    if problem is None and wrong:
        problem = f"{wrong[0]} {tensors.shapes[wrong[0]]}, {before.n_draft} entries in the map"
    if problem is not None:
        raise ArtifactError(
            f"The rows of the head of {before.path} cannot be cut",
            got=problem,
            expected="lm_head.weight of floating-point numbers, one row for each draft token",
            next_step="take the checkpoint before quantisation, with its own head",
        )


def _write(path: Path, folder: Path, tensors: TensorFiles, *, rows: Tensor, ids: Tensor, width: int) -> None:
    mask = torch.zeros(tensors.rows.get("t2d", width), dtype=torch.bool)
    mask[ids] = True
    new_map = {"d2t": ids - torch.arange(ids.numel()), "t2d": mask}
    place = {name: tensors.files.get(name, tensors.files["lm_head.weight"]) for name in new_map}
    changed = {tensors.files[name] for name in _HEADS if name in tensors} | set(place.values())
    skipped = {file.name for file in changed} | {"config.json", INDEX} | ({_PICKLED} if tensors.is_pickled else set())
    shutil.copytree(path, folder, dirs_exist_ok=True, ignore=lambda where, _: skipped if Path(where) == path else set())
    n_saved = 0
    for file in changed:
        n_saved += _rewrite(
            file, folder, tensors, rows=rows, added={k: v for k, v in new_map.items() if place[k] == file}
        )
    if (path / INDEX).is_file():
        index = read_config(path / INDEX)
        index["weight_map"] |= {name: file.name for name, file in place.items()}
        if isinstance(index.get("metadata"), dict) and "total_size" in index["metadata"]:
            index["metadata"]["total_size"] -= n_saved
        _write_json(folder / INDEX, index)
    _write_json(folder / "config.json", {**read_config(path / "config.json"), "draft_vocab_size": ids.numel()})


def _rewrite(file: Path, folder: Path, tensors: TensorFiles, *, rows: Tensor, added: dict[str, Tensor]) -> int:
    """Write one file of weights with cut heads and the new map; returns by how many bytes its tensors shrank."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    names = [name for name, where in tensors.files.items() if where == file]
    old = {name: tensors.tensor(name) for name in names}
    new = {name: tensor[rows] if name in _HEADS else tensor for name, tensor in old.items()} | added
    metadata = {"format": "pt"}
    if not tensors.is_pickled:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or metadata
    # A pickle may hold two names for one memory, which the format does not have.
    plain = {name: tensor.clone().contiguous() for name, tensor in new.items()} if tensors.is_pickled else new
    save_file(plain, folder / (_SINGLE if tensors.is_pickled else file.name), metadata=metadata)
    return sum(t.numel() * t.element_size() for t in old.values()) - sum(
        t.numel() * t.element_size() for t in new.values()
    )


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
