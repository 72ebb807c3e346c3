"""Pairs that do not exist, with laws of a chosen shape: linear heads over random states, as traces."""

from __future__ import annotations

import torch

from outlex.calibration.trace_records import PROMPT_TOP, TracedModel, TracedPrompt, TraceHeader, TraceSettings
from outlex.calibration.traces import TraceSet
from outlex.heads.linear import LinearHead

__all__ = ["zipf_pair"]

_WIDTH, _N_PROMPTS, _LENGTH = 32, 60, 16
_SHARPNESS, _NOISE = 1.5, 0.7


def zipf_pair(*, n: int, exponent: float, seed: int) -> tuple[LinearHead, LinearHead, TraceSet]:
    """Target, drafter and traces.

    Logits are −exponent · log rank plus a random linear function of a state that changes from position to position.
    The drafter has the target's head and sees its state with noise, so that it errs as drafters do.

    Args:
        n: tokens; token i has rank i + 1.
        exponent: 0 is a uniform unigram law.
        seed: of everything.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = _SHARPNESS * torch.randn(n, _WIDTH, generator=generator) / _WIDTH**0.5
    bias = -exponent * torch.arange(1, n + 1).log()
    target, drafter = (LinearHead(weight=weight, bias=bias) for _ in range(2))
    n_rows = _N_PROMPTS * _LENGTH
    states = torch.randn(n_rows, _WIDTH, generator=generator) * 2
    seen = states + _NOISE * torch.randn(n_rows, _WIDTH, generator=generator)
    token_ids = target.logits(states).softmax(-1).multinomial(1, generator=generator).squeeze(-1)
    prompts = tuple(
        TracedPrompt(id=str(i), domain="zipf", digest="", n_prompt=1, n_positions=_LENGTH, finish_reason="length")
        for i in range(_N_PROMPTS)
    )
    header = TraceHeader(
        target=_described(target),
        drafter=_described(drafter),
        tokenizer_fingerprint="synthetic",
        n_tokenizer=n,
        stop_ids=(),
        settings=TraceSettings(temperature=1.0, seed=seed, max_new_tokens=_LENGTH, batch_size=1),
        prompts=prompts,
    )
    traces = TraceSet(
        header=header,
        target_hidden=states,
        drafter_hidden=seen,
        token_ids=token_ids,
        prompt_index=torch.arange(_N_PROMPTS, dtype=torch.int32).repeat_interleave(_LENGTH),
        position=torch.arange(_LENGTH, dtype=torch.int32).repeat(_N_PROMPTS),
        prompt_ids=torch.zeros(_N_PROMPTS, dtype=torch.int32),
        prompt_top=torch.zeros(_N_PROMPTS, min(PROMPT_TOP, n), dtype=torch.int32),
    )
    return target, drafter, traces


def _described(head: LinearHead) -> TracedModel:
    return TracedModel(
        name="synthetic",
        source="synthetic",
        dtype="float32",
        n_rows=head.n_rows,
        hidden_size=_WIDTH,
        scale=head.scale,
        softcap=head.softcap,
        has_bias=True,
        head_fingerprint=head.fingerprint,
        body_bytes=1,
        head_bytes=head.n_bytes,
    )
