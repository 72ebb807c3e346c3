"""Losslessness through real models: greedy equality on SmolLM2-135M, and a chi-square test of sampled tokens."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from chi_square import FALSE_ALARM, N_SAMPLES, joint_law, sample, statistic
from scipy.stats import chi2, ncx2
from tiny_models import tiny_pair
from torch import Tensor

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, must_keep, trim
from outlex.models import LanguageModel
from outlex.verify import verify
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.tokenizer_facts import facts_of

PROMPTS = [
    "Write a Python function that reverses a string.",
    "What is the capital of Portugal?",
    "Explain photosynthesis to a child in two sentences.",
    "Translate to French: The cat sleeps on the warm roof.",
    "List five animals that live in the desert.",
    "What is 17 times 23? Show the steps.",
    "Summarise the plot of Romeo and Juliet.",
    "Write a haiku about winter rain.",
    "How do I boil an egg?",
    "Give three reasons to learn a second language.",
    "Write a SQL query that counts users per country.",
    "Who invented the telephone?",
    "Complete the sentence: The quick brown fox",
    "What does HTTP status 404 mean?",
    "Describe a sunset over the sea.",
    "Write a short email asking for a day off.",
    "Is a tomato a fruit? Why?",
    "Name the planets of the solar system in order.",
    "What is the difference between a list and a tuple?",
    "Tell me a joke about computers.",
]


@pytest.mark.real_model
def test_greedy_output_of_a_real_model_is_the_autoregressive_one(smol135: LanguageModel) -> None:
    # The model drafts for itself (each side keeps a cache of its own) with a twelfth of its rows, so about every fourth
    # draft is a rejection: roll-back, recovered and bonus tokens all occur, and transformers' own loop says what the
    # text has to be.
    facts = facts_of(smol135.tokenizer)
    vocab = SubVocab.from_ranking(
        range(4096),
        size=4096,
        facts=facts,
        n_target=smol135.n_rows,
        must_keep=must_keep(facts, stop_ids=smol135.stop_ids),
        provenance={"ranking": "token ids"},
    )
    decoder = SpeculativeDecoder(smol135, smol135, trimmed=trim(smol135, vocab), draft_len=4)
    accepted = tested = 0
    for prompt in PROMPTS:
        ids = smol135.encode_chat([{"role": "user", "content": prompt}])
        ours = decoder.generate(ids, max_new_tokens=16, params=SamplingParams(temperature=0.0))
        model: Any = smol135.model
        theirs = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=16,
            eos_token_id=sorted(smol135.stop_ids),
        )
        assert list(ours.token_ids) == theirs[0, len(ids) :].tolist(), prompt
        accepted, tested = accepted + ours.n_accepted, tested + ours.n_tested
    assert 0.3 < accepted / tested < 0.98


@cache
def setting() -> tuple[SpeculativeDecoder, list[int], Tensor]:
    """A trimmed decoder, a prompt, and the target's joint law of two tokens [260, 260] in float64."""
    target, drafter = tiny_pair()
    facts = facts_of(target.tokenizer)
    vocab = SubVocab.from_ranking(
        range(0, 257, 2),
        size=100,
        facts=facts,
        n_target=260,
        must_keep=MustKeep(reasons={"stop": tuple(sorted(target.stop_ids))}),
        provenance={},
    )
    prompt = [10, 20, 30]
    decoder = SpeculativeDecoder(target, drafter, trimmed=trim(drafter, vocab), draft_len=2)
    return decoder, prompt, joint_law(target, prompt)


def group_of_token() -> Tensor:
    """Six groups [260]: inside or outside the draft vocabulary, where faults show, and three groups each."""
    decoder, _, _ = setting()
    assert decoder.drafter is not None
    inside = torch.zeros(260, dtype=torch.int64)
    inside[decoder.drafter.head.score(torch.zeros(1, 32)).token_map.draft_to_target] = 3
    return inside + torch.arange(260) % 3


def test_sampled_tokens_follow_the_law_of_the_target() -> None:
    decoder, prompt, joint = setting()
    value, freedom = statistic(sample(decoder, prompt), joint, group_of_token())
    assert value < chi2.ppf(1 - FALSE_ALARM, freedom)


def test_the_chi_square_test_has_the_power_to_find_a_wrong_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    # The fault: after a rejection the target's law p is drawn from, instead of what p has left after q̃. Its first-token
    # law is p + (1 - β)(p - residual) up to normalisation; the power of the test above against it is computed, stated
    # here (> 0.99) and then shown.
    decoder, prompt, joint = setting()
    marginal = joint.sum(-1)
    real_verify = verify
    first_law: list[Tensor] = []

    def faulty(target_probs: Tensor, draft_ids: Tensor, laws: Any, randomness: Any) -> Any:
        if laws and not first_law:
            q = laws[0].dense()[0].double()
            p = target_probs[0].double()
            shared = torch.minimum(p, q)
            first_law.append(shared + (1 - shared.sum()) * p)
        verdict = real_verify(target_probs, draft_ids, laws, randomness)
        if verdict.kind == "bonus":
            return verdict
        row = target_probs[verdict.n_accepted : verdict.n_accepted + 1]
        return type(verdict)(n_accepted=verdict.n_accepted, next_id=int(randomness.choose(row)), kind="recovered")

    monkeypatch.setattr("outlex.decode.block.verify", faulty)
    value, freedom = statistic(sample(decoder, prompt), joint, group_of_token())
    critical = chi2.ppf(1 - FALSE_ALARM, freedom)
    # a lower bound on the non-centrality: the groups of the first token alone
    group = group_of_token()
    off, base = (
        torch.zeros(6, dtype=torch.float64).index_add_(0, group, law) for law in (first_law[0] - marginal, marginal)
    )
    noncentrality = N_SAMPLES * float((off**2 / base).sum())
    assert ncx2.sf(critical, freedom, noncentrality) > 0.99
    assert value > critical
