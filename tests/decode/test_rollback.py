"""After any sequence of acceptances and rejections both caches equal a fresh prefill of the same tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from outlex.drafters import IndependentDrafter
from outlex.models import LanguageModel
from outlex.models.runner import BodyRunner, TargetRunner

FAMILIES = ("llama", "qwen2", "gemma3_text")
MODELS: dict[str, LanguageModel] = {}


def model_of(family: str) -> LanguageModel:
    if family not in MODELS:
        window: dict[str, Any] = {"sliding_window": 6} if family == "gemma3_text" else {}
        MODELS[family] = tiny_model(family=family, n_layers=3, **window)
    return MODELS[family]


def fresh(loaded: LanguageModel, ids: list[int]) -> torch.Tensor:
    return BodyRunner(loaded).forward(torch.tensor(ids))[0][-1]


# A history: for each block how many of the three drafts stand, and the token that follows them.
HISTORY = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=8)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25)
@given(history=HISTORY, n_prompt=st.integers(1, 12))
@torch.inference_mode()
def test_the_drafter(family: str, history: list[tuple[int, int]], n_prompt: int) -> None:
    loaded = model_of(family)
    drafter = IndependentDrafter(loaded)
    drafter.begin()
    context = list(range(1, n_prompt + 1))
    hidden = drafter.advance(torch.tensor(context), n_accepted=0, features=None)
    for n_accepted, next_id in history:
        torch.testing.assert_close(hidden[0], fresh(loaded, context), atol=1e-4, rtol=1e-4)
        drafts = [(context[-1] * 7 + i * 13 + next_id) % 256 for i in range(3)]
        for i, draft in enumerate(drafts[:-1], start=1):
            hidden = drafter.step(torch.tensor([draft]))
            torch.testing.assert_close(hidden[0], fresh(loaded, [*context, *drafts[:i]]), atol=1e-4, rtol=1e-4)
        news = [*drafts[:n_accepted], next_id]
        hidden = drafter.advance(torch.tensor(news), n_accepted=n_accepted, features=None)
        context += news
    torch.testing.assert_close(hidden[0], fresh(loaded, context), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25)
@given(history=HISTORY, n_prompt=st.integers(1, 12))
@torch.inference_mode()
def test_the_target(family: str, history: list[tuple[int, int]], n_prompt: int) -> None:
    loaded = model_of(family)
    target = TargetRunner(loaded)
    target.reset()
    context, pending = list(range(1, n_prompt + 1)), list(range(1, n_prompt + 1))
    for n_accepted, next_id in history:
        drafts = [(context[-1] * 5 + i * 11 + next_id) % 256 for i in range(3)]
        out = target.forward(torch.tensor([*pending, *drafts]), n_logits=4, feature_layers=(0, 2))
        for i in range(4):
            wanted = target.head.logits(fresh(loaded, [*context, *drafts[:i]])[None])[0]
            torch.testing.assert_close(out.logits[i], wanted, atol=1e-3, rtol=1e-4)
        assert out.features is not None
        assert out.features.shape == (len(pending) + 3, 2 * loaded.hidden_size)
        target.rollback(len(context) + n_accepted)
        context += [*drafts[:n_accepted], next_id]
        pending = [next_id]
