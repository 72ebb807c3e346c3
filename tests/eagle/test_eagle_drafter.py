"""EAGLE drafters in the decoding loop: caches, greedy text, sampled law, every head."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import cycle
from typing import Any

import pytest
import torch
from chi_square import FALSE_ALARM, joint_law, sample, statistic
from eagle_builders import tiny_eagle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from scripted import Scripted
from tiny_models import byte_tokenizer, tiny_model
from torch import Tensor

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, Tli, trim
from outlex.decode.block import BlockDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.decode.together import generate_together
from outlex.drafters import EagleDrafter, FittedHead, Shortlists
from outlex.drafters.artifacts import DraftHeadArtifact
from outlex.eagle import EagleCheckpoint
from outlex.errors import InputError, MismatchError
from outlex.heads.preview_fit import PreviewSpace, Tier
from outlex.models import LanguageModel
from outlex.models.runner import TargetRunner
from outlex.proposals import Vanilla
from outlex.testing import TableTarget, assert_lossless
from outlex.vocab.tokenizer_facts import facts_of

KINDS: dict[str, dict[str, Any]] = {"eagle": {"kind": "eagle", "feature_layers": None}, "eagle3": {}}
PROMPTS = ([10, 20, 30], list(range(40, 60)))
GREEDY: dict[str, Any] = {"max_new_tokens": 20, "params": SamplingParams(temperature=0.0), "ignore_stop_ids": True}


@cache
def target() -> LanguageModel:
    return tiny_model(name="tiny-target", seed=1, n_layers=4)


def imitating(kind: str) -> EagleCheckpoint:
    """A drafter that hands the target's state on nearly as it is, so that drafts are accepted now and then."""
    checkpoint = tiny_eagle(target(), kind=kind, feature_layers=(4,))
    parts = checkpoint.module.named_parts()
    d = checkpoint.config.hidden_size
    with torch.no_grad():
        fc = parts["fc.weight"]
        fc.mul_(0.02)[:, -d:].add_(torch.eye(d))
        for name in ("layers.0.self_attn.o_proj.weight", "layers.0.mlp.down_proj.weight"):
            parts[name].mul_(0.1)
        # logits that are less sharp than the target's agree with it more often
        if "norm.weight" in parts:
            parts["norm.weight"].fill_(1.0)
    return checkpoint


def vocab(ids: list[int]) -> SubVocab:
    facts = facts_of(byte_tokenizer())
    return SubVocab(
        draft_to_target=torch.tensor(ids),
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
        provenance={"from": "a test"},
    )


def artifact(method: Any, drafter: EagleDrafter) -> DraftHeadArtifact | None:
    """A head of each kind; None is the drafter's own."""
    if method == "untrimmed":
        return None
    if method == "trimmed":
        return trim(drafter, vocab(list(range(0, 257, 2))))
    if method == "trimmed to the text":  # tokens the target does say, so that some are accepted
        said = [SpeculativeDecoder(drafter.target).generate(prompt, **GREEDY).token_ids for prompt in PROMPTS]
        return trim(drafter, vocab(sorted({0, *(i for ids in said for i in ids if i < 257)})))
    preview = None
    if method == "preview":
        hidden = torch.cat([drafter.states([1, 2, 3], list(range(i, i + 60))) for i in range(0, 180, 20)])
        preview = PreviewSpace.fit(drafter.full_head, hidden.clone(), rank=32)
    return FittedHead(
        method=method,
        preview=None if preview is None else preview.factor((Tier(n_rows=None, rank=31),), fine_rank=32),
        vocab=vocab([0, 5, 70]) if method == "in-context" else None,
        shortlists=Shortlists(n_candidates=100, n_exact=20, capacity=200),
        base_name=drafter.name,
        base_source=drafter.source,
        base_n_rows=260,
        head_fingerprint=drafter.full_head.fingerprint,
        tokenizer_fingerprint=facts_of(byte_tokenizer()).fingerprint,
    )


@pytest.mark.parametrize("method", ["untrimmed", "trimmed to the text", "in-context", "preview"])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_output_is_the_autoregressive_one_with_every_head(kind: str, method: str) -> None:
    drafter = EagleDrafter(imitating(kind), target())
    alone = SpeculativeDecoder(target())
    fast = SpeculativeDecoder(target(), drafter, trimmed=artifact(method, drafter), draft_len=4)
    assert fast.drafter is not None
    assert (fast.drafter is drafter) == (method == "untrimmed")
    accepted = tested = 0
    for prompt in PROMPTS:
        got = fast.generate(prompt, **GREEDY)
        assert got.token_ids == alone.generate(prompt, **GREEDY).token_ids
        accepted, tested = accepted + got.n_accepted, tested + got.n_tested
    assert 0 < accepted < tested  # drafts were accepted, and drafts were rejected


def test_sampled_tokens_follow_the_law_of_the_target() -> None:
    drafter = EagleDrafter(imitating("eagle3"), target())
    decoder = SpeculativeDecoder(target(), drafter, trimmed=artifact("trimmed", drafter), draft_len=2)
    prompt = [10, 20, 30]
    joint = joint_law(target(), prompt)
    # the second token is the first one drafted: inside and outside the draft vocabulary, halves of about the same mass
    inside = torch.zeros(260, dtype=torch.int64)
    inside[torch.arange(0, 257, 2)] = 2
    group = inside + joint.sum(-1).argsort(descending=True).argsort() % 2
    value, freedom = statistic(sample(decoder, prompt, n=400), joint, group)
    assert value < chi2.ppf(1 - FALSE_ALARM, freedom)


@settings(max_examples=15)
@given(
    runs=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    tokens=st.lists(st.integers(0, 255), min_size=5, max_size=9),
    n_prompt=st.integers(1, 9),
    kind=st.sampled_from(sorted(KINDS)),
)
@torch.inference_mode()
def test_any_history_leaves_both_caches_like_a_fresh_prefill(
    runs: list[int], tokens: list[int], n_prompt: int, kind: str
) -> None:
    loaded, checkpoint = target(), tiny_eagle(target(), **KINDS[kind])
    drafter, runner = EagleDrafter(checkpoint, loaded), TargetRunner(loaded)
    context = list(range(1, n_prompt + 1))
    blocks = BlockDecoder(
        target=runner,
        drafter=drafter,
        proposal=Tli(),
        draft_len=3,
        params=SamplingParams(),
        randomness=Scripted(cycle(tokens), runs),
        prompt_ids=context,
        clock=Stopwatch(runner.device, synchronize=False),
        measure=False,
    )
    n_told = 0
    for i in range(len(runs) + 1):
        n_told = len(context) if i else 0
        context += blocks.next_block(9).token_ids
    # the target has not seen the last token, and the drafter not what the last block added
    fresh = TargetRunner(loaded)
    features = fresh.forward(torch.tensor(context[:-1]), n_logits=1, feature_layers=drafter.feature_layers).features
    assert features is not None
    for layer, wanted in zip(runner._body._cache.layers, fresh._body._cache.layers, strict=True):
        torch.testing.assert_close(layer.keys, wanted.keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(layer.values, wanted.values, atol=1e-4, rtol=1e-4)
    other = EagleDrafter(checkpoint, loaded)
    other.begin()
    other.advance(torch.tensor(context[1:n_told]), n_accepted=0, features=features[: n_told - 1])
    drafter.runner.rollback(n_told - 1)
    for found, wanted in zip(drafter.runner.cached, other.runner.cached, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@cache
def toy_table(context: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(hash(context) % 2**63)
    return torch.randn(2, dtype=torch.float64, generator=generator) * 2


@cache
def toy_features(context: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(hash((1, *context)) % 2**63)
    return torch.randn(64, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("draft_len", "n_blocks"), [(1, 3), (2, 2)])
@pytest.mark.parametrize("proposal", [Tli(), Vanilla()], ids=lambda p: p.name)
def test_the_law_of_a_toy_target_is_kept_exactly(proposal: Any, draft_len: int, n_blocks: int) -> None:
    """The network itself drafts, in float64, for a target whose laws and states are tables."""
    lender = tiny_model(n_rows=2, n_layers=4, eos_token_id=1)
    lender.model.double()
    lender = replace(lender, dtype=torch.float64)
    assert_lossless(
        target=TableTarget(toy_table, n_target=2, feature_of=toy_features),
        drafter=EagleDrafter(tiny_eagle(lender), lender),
        proposal=proposal,
        params=SamplingParams(),
        prompt_ids=[0, 1],
        draft_len=draft_len,
        n_blocks=n_blocks,
    )


def test_own_embedding_head_and_map_are_used() -> None:
    """A drafter with copies of the target's rows for half of the vocabulary drafts like one that shares them."""
    ids = torch.arange(0, 260, 2)
    checkpoint, loaded = imitating("eagle3"), target()
    shared = tiny_eagle(loaded, feature_layers=(4,), draft_to_target=ids)
    own = tiny_eagle(
        loaded,
        feature_layers=(4,),
        embedding=loaded.model.get_input_embeddings().weight.clone(),
        head=loaded.model.get_output_embeddings().weight[ids].clone(),
        draft_to_target=ids,
    )
    for other in (shared, own):
        other.module.load_state_dict(checkpoint.module.state_dict())
    trimmed = trim(EagleDrafter(checkpoint, loaded), vocab(ids[ids < 257].tolist()))
    drafters = [EagleDrafter(one, loaded) for one in (shared, own)]
    texts = [
        SpeculativeDecoder(loaded, drafter).generate([10, 20, 30], max_new_tokens=20, seed=3, ignore_stop_ids=True)
        for drafter in drafters
    ]
    assert texts[0].token_ids == texts[1].token_ids
    assert [step.block.draft_ids for step in texts[0].steps] == [step.block.draft_ids for step in texts[1].steps]
    assert {drafter.head.name for drafter in drafters} == {"own-130"}
    assert all(draft % 2 == 0 for step in texts[0].steps for draft in step.block.draft_ids)
    drafters[0].with_head(trimmed)  # the whole head is the target's, so others can be cut from it
    with pytest.raises(MismatchError, match="takes no other head") as caught:
        drafters[1].with_head(trimmed)
    assert "--retrim" in str(caught.value)


def test_states_are_those_of_the_first_drafts() -> None:
    """What is traced is what the head scores while decoding."""
    loaded, checkpoint = target(), tiny_eagle(target())
    drafter = EagleDrafter(checkpoint, loaded)
    states = drafter.states([5, 6, 7], [8, 9, 10])
    assert states.shape == (4, 32)
    with torch.inference_mode():
        features = (
            TargetRunner(loaded)
            .forward(torch.tensor([5, 6, 7, 8]), n_logits=1, feature_layers=drafter.feature_layers)
            .features
        )
        drafter.begin()
        assert features is not None
        for i in range(4):
            hidden = drafter.advance(torch.tensor([6 + i]), n_accepted=0, features=features[i : i + 1])
            torch.testing.assert_close(hidden[0], states[i], atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="prompts need two tokens") as caught:
        drafter.states([5], [6, 7])
    assert "chat template" in str(caught.value)


def test_wrong_targets_and_shared_passes_are_refused() -> None:
    drafter = EagleDrafter(tiny_eagle(target()), target())
    with pytest.raises(MismatchError, match="another target") as caught:
        SpeculativeDecoder(tiny_model(n_layers=3), drafter)
    assert "load the target it was made for" in str(caught.value)
    with pytest.raises(InputError, match="cannot share forward passes") as refused:
        generate_together(
            SpeculativeDecoder(target(), drafter), [[1, 2]], seeds=[0], max_new_tokens=2, params=SamplingParams()
        )
    assert "--batch-size 1" in str(refused.value)
