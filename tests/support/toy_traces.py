"""Traces of models that do not exist: random hidden states, tokens and heads of any width."""

from __future__ import annotations

import torch

from outlex.calibration.trace_records import TracedModel, TracedPrompt, TraceHeader, TraceSettings
from outlex.calibration.traces import TraceSet
from outlex.heads.linear import LinearHead


def head(n_rows: int, d: int, *, seed: int, dtype: torch.dtype = torch.float32) -> LinearHead:
    weight = torch.randn(n_rows, d, generator=torch.Generator().manual_seed(seed))
    return LinearHead(weight=weight.to(dtype))


def traced_model(linear: LinearHead) -> TracedModel:
    return TracedModel(
        name="m",
        source="m",
        dtype=str(linear.weight.dtype).removeprefix("torch."),
        n_rows=linear.n_rows,
        hidden_size=int(linear.weight.shape[1]),
        scale=1.0,
        softcap=0.0,
        has_bias=False,
        head_fingerprint=linear.fingerprint,
        body_bytes=1000,
        head_bytes=linear.n_bytes,
    )


def random_traces(target: LinearHead, drafter: LinearHead, lengths: list[int], *, seed: int = 0) -> TraceSet:
    n, generator = sum(lengths), torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))
    hidden = [torch.randn(n, linear.weight.shape[1], generator=generator) for linear in (target, drafter)]
    hidden[1][:, : min(hidden[0].shape[1], hidden[1].shape[1])] = hidden[0][:, : hidden[1].shape[1]]
    return TraceSet(
        header=TraceHeader(
            target=traced_model(target),
            drafter=traced_model(drafter),
            tokenizer_fingerprint="f",
            n_tokenizer=target.n_rows,
            stop_ids=(),
            settings=TraceSettings(temperature=1.0, seed=0, max_new_tokens=max(lengths), batch_size=1),
            prompts=tuple(
                TracedPrompt(id=str(i), domain="d", digest="", n_prompt=3, n_positions=k, finish_reason="length")
                for i, k in enumerate(lengths)
            ),
        ),
        target_hidden=hidden[0].to(target.weight.dtype),
        drafter_hidden=hidden[1].to(drafter.weight.dtype),
        token_ids=torch.randint(target.n_rows, (n,), generator=generator),
        prompt_index=index,
        position=torch.cat([torch.arange(k, dtype=torch.int32) for k in lengths]),
        prompt_ids=torch.randint(target.n_rows, (3 * len(lengths),), generator=generator, dtype=torch.int32),
        prompt_top=torch.randint(target.n_rows, (3 * len(lengths), 8), generator=generator, dtype=torch.int32),
    )
