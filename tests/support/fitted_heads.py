"""Previews of small heads: synthetic hidden states, and fitted heads of the tiny drafter."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tiny_models import byte_tokenizer, tiny_pair
from torch import Tensor

from outlex import SubVocab
from outlex.drafters import FittedHead, Shortlists
from outlex.heads.linear import LinearHead
from outlex.heads.preview_fit import PreviewFactor, PreviewSpace, Tier
from outlex.models.output_head import output_head
from outlex.vocab.tokenizer_facts import facts_of


def random_head(
    n_rows: int, d: int, *, seed: int = 0, bias: bool = False, dtype: torch.dtype = torch.float32, **rest: Any
) -> LinearHead:
    """Rows of length about 1."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_rows, d, generator=generator) / d**0.5
    own_bias = torch.randn(n_rows, generator=generator) / 4 if bias else None
    return LinearHead(weight=weight.to(dtype), bias=None if own_bias is None else own_bias.to(dtype), **rest)


def states(n: int, d: int, *, seed: int = 0) -> Tensor:
    """Hidden states as models have them, far from the origin, most variance in a few directions: float32 [n, d]."""
    fixed = torch.Generator().manual_seed(99)
    mixing = torch.linalg.qr(torch.randn(d, d, generator=fixed)).Q * torch.logspace(1.2, -1.2, d).unsqueeze(-1)
    mean = 3 * torch.randn(d, generator=fixed)
    found: Tensor = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) @ mixing + mean
    return found


@cache
def small_preview(n_rows: int = 1200, d: int = 64) -> tuple[LinearHead, PreviewFactor]:
    """Two int4 tiers and an int8 stage, fitted to 600 states."""
    linear = random_head(n_rows, d)
    space = PreviewSpace.fit(linear, states(600, d), rank=d)
    tiers = (Tier(n_rows=300, rank=63), Tier(n_rows=None, rank=31))
    return linear, space.factor(tiers, fine_rank=64)


@cache
def fitted(method: Any = "preview") -> FittedHead:
    """A head of the tiny drafter that proposes about 20 of 260 tokens."""
    drafter = tiny_pair()[1]
    linear, facts = output_head(drafter), facts_of(byte_tokenizer())
    preview, vocab = None, None
    if method == "in-context":
        vocab = SubVocab(
            draft_to_target=torch.tensor([0, 5, 70]),
            n_target=260,
            n_tokenizer=facts.n_entries,
            tokenizer_fingerprint=facts.fingerprint,
            provenance={"from": "a test"},
        )
    else:
        ids = torch.randint(0, 256, (6, 60), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            hidden = drafter.model.get_decoder()(ids, use_cache=False).last_hidden_state.flatten(0, 1)
        space = PreviewSpace.fit(linear, hidden.clone(), rank=32)
        preview = space.factor((Tier(n_rows=None, rank=31),), fine_rank=32)
    return FittedHead(
        method=method,
        preview=preview,
        vocab=vocab,
        shortlists=Shortlists(n_candidates=100, n_exact=20, capacity=200),
        base_name=drafter.name,
        base_source=drafter.source,
        base_n_rows=linear.n_rows,
        head_fingerprint=linear.fingerprint,
        tokenizer_fingerprint=facts.fingerprint,
        provenance={"fitted by": "a test", "trials": [{"name": "a", "head_bytes": 0.5, "kept": 0.9}], "n": {"a": 1}},
    )
