"""Toy pairs whose drafter lacks tokens, with traces enough to split in three."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from toy_traces import head, random_traces

from outlex.calibration.traces import TraceSet
from outlex.drafters import TrimmedDrafter
from outlex.heads.linear import LinearHead, trim_head
from outlex.vocab.sub_vocab import SubVocab

N, D, N_HOT = 96, 12, 24


@cache
def toy_pair() -> tuple[LinearHead, LinearHead, TraceSet]:
    """Target and drafter with almost the same head, 40 prompts of 12 positions in two domains."""
    target = head(N, D, seed=1)
    drafter = LinearHead(weight=target.weight + 0.2 * head(N, D, seed=2).weight)
    traces = random_traces(target, drafter, [12] * 40)
    prompts = tuple(replace(one, domain="ab"[i % 2]) for i, one in enumerate(traces.prompts))
    return target, drafter, replace(traces, header=replace(traces.header, prompts=prompts))


def toy_trimmed(ids: list[int] | None = None) -> TrimmedDrafter:
    """The toy drafter with its first tokens only."""
    _, drafter, traces = toy_pair()
    vocab = SubVocab(
        draft_to_target=torch.arange(N_HOT) if ids is None else torch.tensor(ids),
        n_target=N,
        n_tokenizer=N,
        tokenizer_fingerprint=traces.header.tokenizer_fingerprint,
        provenance={"from": "a test"},
    )
    return TrimmedDrafter(
        vocab=vocab, linear=trim_head(drafter, vocab).linear, base_name="m", base_source="m", base_n_rows=N
    )


def mapping_pair() -> tuple[LinearHead, LinearHead, TraceSet]:
    """A pair in which cold token N_HOT + i is what the target says wherever the drafter's best hot token is i.

    The drafter's law over hot tokens is sharp and tells nothing else, so a kernel can gain nearly everything and TLI
    nothing at those positions.
    """
    target, drafter, traces = toy_pair()
    n = len(traces)
    chosen = torch.randint(N_HOT, (n,), generator=torch.Generator().manual_seed(5))
    d = N_HOT
    states = 12.0 * torch.eye(d)[chosen]
    hot_rows, cold_rows = torch.eye(d), torch.zeros(N - d, d)
    drafter = LinearHead(weight=torch.cat([hot_rows, cold_rows - 1.0]))
    moved = torch.cat([torch.zeros(d, d), torch.eye(d), torch.full((N - 2 * d, d), -1.0)])
    target = LinearHead(weight=moved)
    made = random_traces(target, drafter, [12] * 40)
    prompts = traces.header.prompts
    return (
        target,
        drafter,
        replace(
            made,
            header=replace(made.header, prompts=prompts),
            target_hidden=states,
            drafter_hidden=states,
        ),
    )


def trimmed_of(drafter: LinearHead, n_hot: int = N_HOT) -> TrimmedDrafter:
    """The first rows of any toy drafter."""
    base = toy_trimmed(list(range(n_hot)))
    return replace(base, linear=trim_head(drafter, base.vocab).linear, base_n_rows=drafter.n_rows)
