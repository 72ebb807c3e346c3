"""Fitted heads in real models of a few kilobytes: greedy text is the target's own, sampled tokens follow its law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chi_square import FALSE_ALARM, joint_law, sample, statistic
from fitted_heads import fitted
from scipy.stats import chi2
from tiny_models import tiny_pair

from outlex import SamplingParams, SpeculativeDecoder

PROMPTS = ("the river", "a", "Größe: 0123456789 on the other shore")


@pytest.mark.parametrize("method", ["preview", "in-context", "both"])
@pytest.mark.parametrize("draft_len", [1, 4])
def test_greedy_output_is_the_autoregressive_one(method: Any, draft_len: int) -> None:
    target, drafter = tiny_pair()
    alone = SpeculativeDecoder(target)
    fast = SpeculativeDecoder(target, drafter, trimmed=fitted(method), draft_len=draft_len)
    accepted = tested = 0
    for prompt in PROMPTS:
        for penalty in (1.0, 1.2):
            params = SamplingParams(temperature=0.0, repetition_penalty=penalty)
            greedy: dict[str, Any] = {"max_new_tokens": 30, "params": params, "ignore_stop_ids": True}
            got = fast.generate(prompt, **greedy)
            assert got.token_ids == alone.generate(prompt, **greedy).token_ids, prompt
            accepted, tested = accepted + got.n_accepted, tested + got.n_tested
    assert 0.1 < accepted / tested < 0.99  # drafts were accepted, and drafts were rejected


def test_sampled_tokens_follow_the_law_of_the_target() -> None:
    method = "both"
    target, drafter = tiny_pair()
    prompt = [10, 20, 30]
    decoder = SpeculativeDecoder(target, drafter, trimmed=fitted(method), draft_len=2)
    joint = joint_law(target, prompt)
    # what the shortlist of the first position leaves out, where faults show, apart from what it has
    hidden = drafter.model.get_decoder()(torch.tensor([prompt])).last_hidden_state[0, -1:]
    head = fitted(method).head_for(drafter, n_target=260)
    head.begin(prompt)
    inside = torch.zeros(260, dtype=torch.int64)
    inside[head.score(hidden).token_map.draft_to_target] = 2
    group = inside + joint.sum(-1).argsort(descending=True).argsort() % 2  # halves of about the same mass
    value, freedom = statistic(sample(decoder, prompt, n=700), joint, group)
    assert value < chi2.ppf(1 - FALSE_ALARM, freedom)
