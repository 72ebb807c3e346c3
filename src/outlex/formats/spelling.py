"""Absolute ids or offsets: decided by what the numbers can mean, never guessed.

EAGLE-3 calls its map `d2t` and stores offsets: the target id of row i is i + d2t[i]. Others store the ids themselves
under the same name and in the same dtype. Read the wrong way, most maps break an invariant (an id twice, below 0,
beyond the head), and then only one reading is left. A mask of the target ids that have a row (`t2d`) settles the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outlex.errors import ArtifactError, VocabError
from outlex.formats.base import MAX_IDS, Spelling, unusable

__all__ = ["settle", "target_mask"]

_WORDS = {"absolute": "absolute ids", "offsets": "offsets"}


def settle(
    values: Tensor, *, n_target: int | None, mask: Tensor | None, read_as: Spelling | None, where: str
) -> tuple[Tensor, Spelling, str]:
    """Absolute ids, how they were spelled, and what decided it.

    Args:
        values: int64 ``[n_draft]``, as stored.
        n_target: width of the target's head, if known.
        mask: bool ``[n_target]``, the target ids that have a row, if known.
        read_as: what the user says.
        where: the file, for the messages.

    Raises:
        VocabError: both readings are possible and differ, or none is; the message says what would settle it.
    """
    readings = {"absolute": values, "offsets": values + torch.arange(values.numel())}
    huge = (
        f"a number of {MAX_IDS} or more in size" if bool(((values >= MAX_IDS) | (values <= -MAX_IDS)).any()) else None
    )
    problems = {name: huge or _problem(ids, n_target, mask) for name, ids in readings.items()}
    if read_as is not None:
        if problems[read_as] is not None:
            raise _impossible(where, f"as {_WORDS[read_as]}: {problems[read_as]}")
        return readings[read_as], read_as, f"--read-as {read_as}"
    possible: list[Spelling] = [name for name in ("absolute", "offsets") if problems[name] is None]
    if not possible:
        raise _impossible(where, "; ".join(f"as {_WORDS[name]}: {problem}" for name, problem in problems.items()))
    if mask is None and not bool(values.any()):
        # Zeros are the identity as offsets, and also what a map is before anybody fills it.
        raise _ambiguous(where, f"{values.numel()} zeros: the first {values.numel()} ids, or a map that was never set")
    if len(possible) == 2 and not torch.equal(readings["absolute"], readings["offsets"]):
        raise _ambiguous(where, f"{values.numel()} numbers that are a map both as absolute ids and as offsets")
    (spelling, other) = (possible[0], "offsets" if possible[0] == "absolute" else "absolute")
    why = f"as {_WORDS[other]} they are no map: {problems[other]}" if problems[other] else "both readings are the same"
    return readings[spelling], spelling, why


def target_mask(value: object, *, where: str) -> Tensor:
    """A `t2d` tensor, checked: bool ``[n_target]`` on the CPU, with at least one id.

    Raises:
        ArtifactError: anything else.
    """
    fine = (
        type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype == torch.bool
        and value.ndim == 1
        and 1 <= value.numel() <= MAX_IDS
    )
    if not fine or not isinstance(value, Tensor) or not bool(value.any()):
        is_tensor = isinstance(value, Tensor)
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArtifactError(
            f"t2d in {where} is no mask of the target's ids",
            got=f"{got}, all false" if fine and is_tensor else got,
            expected="bool [n_target], true where a target id has a row",
            next_step="export the drafter again: its map was never set, or was stored as something else",
        )
    return value


def _problem(ids: Tensor, n_target: int | None, mask: Tensor | None) -> str | None:
    problem = unusable(ids, n_target=n_target if mask is None else mask.numel())
    if problem is not None or mask is None:
        return problem
    n_marked, n_agreeing = int(mask.sum()), int(mask[ids].sum())
    if (n_marked, n_agreeing) == (ids.numel(), ids.numel()):
        return None
    return f"t2d marks {n_marked} ids, and {n_agreeing} of these {ids.numel()} are among them"


def _ambiguous(where: str, got: str) -> VocabError:
    return VocabError(
        f"Whether {where} holds absolute ids or offsets cannot be told",
        got=got,
        expected="a t2d mask beside it, or numbers that are a map in one reading only",
        next_step="give --read-as offsets (EAGLE-3, ModelOpt: id = row + number) or --read-as absolute; the width of"
        " the target's head (--n-target) may settle it as well",
    )


def _impossible(where: str, got: str) -> VocabError:
    return VocabError(
        f"{where} holds no map",
        got=got,
        expected="each target id at most once, all inside the target's head",
        next_step="check that the file is whole and belongs to this target, or make the map again",
    )
