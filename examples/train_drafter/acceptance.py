"""How much of a drafter's proposals the target accepts, over the whole vocabulary and without decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dataset import Batch, Text, make_batch
from torch import Tensor

from outlex.eagle import EagleModule

__all__ = ["measure_acceptance", "predicted_positions"]

_ROWS = 128  # positions scored at once


def predicted_positions(batch: Batch, step: int) -> Tensor:
    """Where step `step` of `EagleModule.unroll` has a law to be compared with: bool [B, n − 1] by its position i.

    Step s at i predicts the law at position i + 1 + s.
    """
    n = batch.ids.shape[1] - 1
    shifted = torch.zeros(batch.ids.shape[0], n, dtype=torch.bool)
    shifted[:, : n - step] = batch.lawful[:, 1 + step :]
    return shifted


@torch.inference_mode()
def measure_acceptance(
    module: EagleModule, texts: Sequence[Text], *, embedding: Tensor, head: Tensor, n_steps: int, batch_size: int = 8
) -> dict[str, list[tuple[float, float]]]:
    """Acceptance on answers, along the text that the target wrote.

    Args:
        module: the drafter.
        texts: to measure on; answers only.
        embedding, head: the target's, [n_target, d].
        n_steps: draft positions.
        batch_size: texts at a time.

    Returns:
        A sum and a count for every text it is measured on; their ratio over all texts is

        `t1_k`: mean Σ_v min(p, q) at draft position k = 1 … n_steps, at temperature 1, on sampled answers;
        `t0_k`: how often the arg-max agree, on greedy answers;
        `t0_tau`: tokens a target pass emits, from walking along the greedy answers with `n_steps` drafts;
        `t1_tau`: 1 + mean over positions of Σ_k Π_{j ≤ k} β_j, on sampled answers.
    """
    names = [f"{mode}_{what}" for mode in ("t0", "t1") for what in (*range(1, n_steps + 1), "tau")]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for mode, wanted in (("t0", [t for t in texts if t.temperature == 0]), ("t1", [t for t in texts if t.temperature])):
        for begin in range(0, len(wanted), batch_size):
            batch = make_batch(wanted[begin : begin + batch_size], answers_only=True)
            betas, valid = _betas(module, batch, embedding=embedding, head=head, n_steps=n_steps, greedy=mode == "t0")
            for step in range(n_steps):
                found[f"{mode}_{step + 1}"] += _sums(betas[step], valid[step])
            if mode == "t0":
                found["t0_tau"] += [_walk(betas, valid, row) for row in range(valid.shape[1])]
            else:
                found["t1_tau"] += _sums(1 + betas.cumprod(0).sum(0), valid[-1])
    return found


def _sums(values: Tensor, valid: Tensor) -> list[tuple[float, float]]:
    """Sum and count of the valid ones of each row."""
    return list(zip((values * valid).sum(1).tolist(), valid.sum(1).tolist(), strict=True))


def _betas(
    module: EagleModule, batch: Batch, *, embedding: Tensor, head: Tensor, n_steps: int, greedy: bool
) -> tuple[Tensor, Tensor]:
    """β and which of them count, both [n_steps, B, n − 1]."""
    ids = torch.nn.functional.pad(batch.ids[:, 1:], (0, n_steps - 1))
    dtype = module.fc.weight.dtype
    n = batch.ids.shape[1] - 1
    unrolled = module.unroll(embedding[ids].to(dtype), batch.features[:, :n].to(dtype), n_steps=n_steps)
    valid = torch.stack([predicted_positions(batch, step) for step in range(n_steps)])
    betas = torch.zeros(valid.shape)
    for step, states in enumerate(unrolled):
        rows, places = valid[step].nonzero(as_tuple=True)
        laws = batch.last[rows, places + 1 + step]
        scored = states[rows, places]
        found = [
            _overlap(law @ head.T, state.to(head.dtype) @ head.T, greedy=greedy)
            for law, state in zip(torch.split(laws.to(head.dtype), _ROWS), torch.split(scored, _ROWS), strict=True)
        ]
        betas[step, rows, places] = torch.cat([*found, torch.empty(0)])
    return betas, valid


def _overlap(target_logits: Tensor, logits: Tensor, *, greedy: bool) -> Tensor:
    if greedy:
        return (target_logits.argmax(-1) == logits.argmax(-1)).float()
    return torch.minimum(target_logits.float().softmax(-1), logits.float().softmax(-1)).sum(-1)


def _walk(betas: Tensor, valid: Tensor, row: int) -> tuple[float, float]:
    """Tokens and blocks along one greedy answer, whole blocks only."""
    n_tokens, n_blocks = 0, 0
    place = int(valid[0, row].float().argmax())
    while place < valid.shape[2] and bool(valid[-1, row, place]):
        accepted = int(betas[:, row, place].cumprod(0).sum())
        place += accepted + 1
        n_tokens, n_blocks = n_tokens + accepted + 1, n_blocks + 1
    return float(n_tokens), float(n_blocks)
