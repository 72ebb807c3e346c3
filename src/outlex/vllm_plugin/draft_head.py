"""What the plugin's classes do that needs no vLLM: read the artifact, refuse what cannot be served, fit weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.drafters import FittedHead, TrimmedDrafter, load_draft_head
from outlex.errors import ArtifactError, InputError
from outlex.formats.drafter_checkpoint import EMBEDDING, LM_HEAD
from outlex.formats.vllm_drafter import ARTIFACT, check_can_be_served
from outlex.heads.base import DraftHead
from outlex.heads.linear import LinearHead
from outlex.proposals.base import Proposal
from outlex.proposals.restoring import Restoring
from outlex.proposals.tli import Tli

__all__ = ["fitted_weights", "head_of_rows", "proposal_for", "read_served", "what_is_void"]


def read_served(
    directory: str, *, n_target: int, tensor_parallel_size: int, pipeline_parallel_size: int
) -> TrimmedDrafter | FittedHead:
    """The artifact in a draft model directory, if it can be served like this.

    Args:
        directory: what vLLM was given as draft model.
        n_target: width of the target's head.
        tensor_parallel_size, pipeline_parallel_size: of the drafter.

    Raises:
        ArtifactError: no directory on this machine, no artifact in it, or a damaged one.
        InputError: a head that vLLM cannot serve, or not on so many devices.
        MismatchError: it was made for a target of another width, or with another tokenizer.
    """
    place = Path(directory) / ARTIFACT
    if not place.is_dir():
        raise ArtifactError(
            "This draft model has no artifact of outlex beside its weights",
            got=directory,
            expected=f"a directory on this machine with {ARTIFACT}/ in it",
            next_step="write one with `outlex export --to vllm-plugin`, and copy it to every node that serves",
        )
    artifact = load_draft_head(place)
    check_can_be_served(artifact)
    if artifact.stored is not None:
        artifact.stored.check_target(n_target)
    if pipeline_parallel_size > 1:
        raise InputError(
            "A trimmed draft model cannot be split into pipeline stages",
            got=f"pipeline_parallel_size {pipeline_parallel_size}",
            expected="1",
            next_step="split it by tensor parallelism; a drafter is small enough for that",
        )
    if isinstance(artifact, TrimmedDrafter):
        return artifact
    if tensor_parallel_size > 1:
        raise InputError(
            "A preview cannot be split over devices: each of them would need all rows of the head",
            got=f"draft_tensor_parallel_size {tensor_parallel_size}",
            expected="1",
            next_step="serve a trimmed drafter (`outlex trim`), whose rows are split as vLLM splits its own",
        )
    return artifact


def proposal_for(artifact: TrimmedDrafter | FittedHead, device: torch.device) -> Proposal:
    """The fitted proposal on a device; TLI where there is none."""
    return Tli() if artifact.proposal is None else artifact.proposal.to(device)


def what_is_void(artifact: TrimmedDrafter | FittedHead, *, draft_sample_method: str) -> str | None:
    """What a setting of vLLM makes useless, in words; None where it is right.

    A proposal that gives mass to cold tokens never makes one of them the most probable, so greedy drafts are those
    of TLI: the law is kept, and what was fitted is not used.
    """
    if draft_sample_method == "probabilistic" or not isinstance(artifact.proposal, Restoring):
        return None
    return (
        f"the proposal {artifact.proposal.name} has no effect with draft_sample_method={draft_sample_method!r}:"
        " set draft_sample_method='probabilistic' in the speculative config"
    )


def fitted_weights(
    weights: Iterable[tuple[str, Tensor]], *, n_rows: int, needs_head: bool
) -> Iterator[tuple[str, Tensor]]:
    """A drafter's weights, its embeddings (and its LM head) as long as the target's head.

    A target padded to more rows (152,064 for 151,936) gets rows of zeros, whose ids no text holds; one with fewer rows
    drops the drafter's last ones, which it can never emit.

    Args:
        weights: name and tensor.
        n_rows: rows of the target's head.
        needs_head: whether the whole LM head is wanted; a trimmed drafter has its own rows.
    """
    for name, tensor in weights:
        if name.startswith("lm_head.") and not needs_head:
            continue
        fits = name not in (EMBEDDING, LM_HEAD) or tensor.shape[0] == n_rows
        yield name, tensor if fits else F.pad(tensor, (0, 0, 0, n_rows - tensor.shape[0]))


def head_of_rows(
    artifact: FittedHead, weight: Tensor, bias: Tensor | None, *, n_target: int, scale: float, softcap: float
) -> DraftHead:
    """The preview head over a drafter's own rows, wherever they are.

    Args:
        artifact: a preview.
        weight: [n_rows or more, d], padding included.
        bias: [n_rows or more] or None.
        n_target: width of the target's head.
        scale, softcap: of the drafter's head, see `LinearHead`.

    Raises:
        MismatchError: these are not the rows that the preview was fitted to.
    """
    n_rows = artifact.base_n_rows
    linear = LinearHead(
        weight=weight.detach()[:n_rows],
        bias=None if bias is None else bias.detach()[:n_rows],
        scale=scale,
        softcap=softcap,
    )
    return artifact.head_from(linear, n_target=n_target)
