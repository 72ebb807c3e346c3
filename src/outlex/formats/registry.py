"""All formats, and which of them a path belongs to."""

from __future__ import annotations

import os
from pathlib import Path

from outlex.errors import ArtifactError, InputError
from outlex.formats.base import Evidence, Format, MapFile, Reading, Writer
from outlex.formats.eagle3 import Eagle3
from outlex.formats.gguf_map import GgufMap
from outlex.formats.medusa import Medusa
from outlex.formats.outlex_artifact import OutlexArtifact
from outlex.formats.sglang_map import SglangTokenMap
from outlex.formats.source import Source
from outlex.formats.speculators import Speculators
from outlex.formats.token_ids import TokenIds
from outlex.formats.torch_dict import AutomodelTokenMap, MappingDict
from outlex.formats.torch_tensor import TorchTensor
from outlex.formats.vllm_drafter import VllmDrafter

__all__ = ["FORMATS", "WRITERS", "read_map", "recognise"]

FORMATS: tuple[Format, ...] = (
    OutlexArtifact(),
    SglangTokenMap(),
    TorchTensor(),
    AutomodelTokenMap(),
    MappingDict(),
    Eagle3(),
    Speculators(),
    Medusa(),
    GgufMap(),
    TokenIds(),
    VllmDrafter(),
)
# By the name that `outlex convert --to` takes.
WRITERS: dict[str, Writer] = {form.name: form for form in FORMATS if isinstance(form, Writer)}


def recognise(path: str | os.PathLike[str]) -> Evidence | None:
    """Which format a path is of, and why; None if none of them knows it.

    Raises:
        InputError: nothing is there.
        ArtifactError: a damaged file of `torch.save`, or one that two formats claim.
    """
    found = _claims(Source(_existing(path)))
    return found[0][1] if found else None


def read_map(path: str | os.PathLike[str], reading: Reading | None = None) -> MapFile:
    """Read a map of any format.

    Args:
        path: a file or a directory.
        reading: what the file may not say.

    Raises:
        InputError: nothing is there, no format knows it, or it cannot be read as asked.
        ArtifactError: damaged.
        VocabError: no usable map in it, or one that can be read in two ways.
    """
    source = Source(_existing(path))
    found = _claims(source)
    if not found:
        raise InputError(
            f"{path} is no token map that outlex knows",
            expected="an artifact of outlex, a token map (.pt, .json, .txt), a checkpoint of EAGLE-3, speculators or"
            " Medusa, or a GGUF file with d2t",
            next_step="check the path; 'outlex inspect' says what it is",
        )
    reading = reading or Reading()
    map_file = found[0][0].read(source, reading)
    if reading.read_as not in (None, map_file.spelling):
        raise InputError(
            f"{path} cannot be read as {reading.read_as}",
            got=f"{map_file.layout}: {map_file.settled_by}",
            expected=f"--read-as {map_file.spelling}, or none",
            next_step="leave --read-as out: it is for files whose numbers can be read in two ways",
        )
    return map_file


def _existing(path: str | os.PathLike[str]) -> Path:
    place = Path(path).expanduser()
    if not place.exists():
        raise InputError("There is no such file or directory", got=path, next_step="check the path")
    return place


def _claims(source: Source) -> list[tuple[Format, Evidence]]:
    found = []
    for form in FORMATS:
        why = form.recognise(source)
        if why is not None:
            found.append((form, Evidence(format=form.name, why=why)))
    if len(found) > 1:
        raise ArtifactError(
            f"{source.path} could be of two formats",
            got="; ".join(f"{evidence.format} ({evidence.why})" for _, evidence in found),
            expected="the marks of one format",
            next_step="take the wrong one's mark out, or convert the map to a file of its own",
        )
    return found
