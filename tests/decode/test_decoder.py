"""Requests on small real transformers models: equality with transformers, streaming, stops, limits, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import END, byte_tokenizer, tiny_model, tiny_pair

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, Tli, Vanilla, trim
from outlex.errors import InputError, MismatchError, ModelError, NumericalError
from outlex.models import LanguageModel
from outlex.proposals import Proposal
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.tokenizer_facts import facts_of

GREEDY = SamplingParams(temperature=0.0)


def small_vocab(size: int = 60, n_target: int = 260) -> SubVocab:
    facts = facts_of(byte_tokenizer())
    keep = MustKeep(reasons={"stop": (byte_tokenizer().eos_token_id,)}, n_filler=0)  # not every byte: 60 rows of 257
    order = torch.randperm(256, generator=torch.Generator().manual_seed(3)).tolist()
    return SubVocab.from_ranking(
        order, size=size, facts=facts, n_target=n_target, must_keep=keep, provenance={"from": "a test"}
    )


@pytest.fixture(scope="module")
def pair() -> tuple[LanguageModel, LanguageModel]:
    return tiny_pair()


def transformers_greedy(target: LanguageModel, prompt_ids: list[int], n: int) -> list[int]:
    out: Any = target.model.generate(
        torch.tensor([prompt_ids]),
        do_sample=False,
        max_new_tokens=n,
        pad_token_id=0,
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
    )
    return list(out[0, len(prompt_ids) :].tolist())


@pytest.mark.parametrize("draft_len", [1, 2, 4, 7])
@pytest.mark.parametrize("head", ["untrimmed", "trimmed"])
def test_greedy_output_is_that_of_transformers(
    pair: tuple[LanguageModel, LanguageModel], draft_len: int, head: str
) -> None:
    target, drafter = pair
    trimmed = trim(drafter, small_vocab(100)) if head == "trimmed" else None
    decoder = SpeculativeDecoder(target, drafter, trimmed=trimmed, draft_len=draft_len)
    accepted = 0
    for seed in range(6):
        prompt = torch.randint(0, 256, (5 + seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        generation = decoder.generate(prompt, max_new_tokens=40, params=GREEDY)
        assert list(generation.token_ids) == transformers_greedy(target, prompt, 40)
        accepted += generation.n_accepted
    assert accepted > 0, "no draft was ever accepted: the test says nothing about acceptance"


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma2", "gemma3_text", "cohere", "granite", "mistral"])
def test_other_families_give_the_output_of_transformers(family: str) -> None:
    # softcap (gemma2), multiplied and divided logits (cohere, granite), sliding windows shorter than the text
    window: dict[str, Any] = {"sliding_window": 8} if family in {"gemma2", "gemma3_text", "mistral"} else {}
    scale: dict[str, Any] = {"cohere": {"logit_scale": 0.5}, "granite": {"logits_scaling": 4.0}}.get(family, {})
    target = tiny_model(name="t", seed=4, family=family, n_layers=3, **window, **scale)
    drafter = tiny_model(name="d", seed=4, family=family, n_layers=2, **window, **scale)
    theirs = dict(target.model.state_dict())
    drafter.model.load_state_dict({key: theirs[key] for key in drafter.model.state_dict()})
    decoder = SpeculativeDecoder(target, drafter, trimmed=trim(drafter, small_vocab(200)), draft_len=3)
    generation = decoder.generate([5, 9, 100, 7, 8, 9, 1, 2, 3, 4, 11], max_new_tokens=40, params=GREEDY)
    assert list(generation.token_ids) == transformers_greedy(target, [5, 9, 100, 7, 8, 9, 1, 2, 3, 4, 11], 40)
    assert 0 < generation.n_accepted < generation.n_tested, "both acceptance and rollback must have happened"


@pytest.mark.parametrize("proposal", [Tli(), Vanilla()], ids=lambda p: p.name)
def test_a_wider_target_head_and_a_wider_drafter_head_work(proposal: Proposal) -> None:
    narrow, wide = tiny_model(name="narrow", seed=1, n_rows=258), tiny_model(name="wide", seed=2, n_rows=272)
    for target, drafter in ((narrow, wide), (wide, narrow)):
        decoder = SpeculativeDecoder(target, drafter, proposal=proposal)
        generation = decoder.generate([1, 2, 3], max_new_tokens=30, seed=0, ignore_stop_ids=True, measure=True)
        assert generation.n_tokens == 30
        assert all(0 <= beta <= 1 + 1e-6 for beta in generation.overlaps)


def test_sampling_is_reproducible_and_seeds_matter(pair: tuple[LanguageModel, LanguageModel]) -> None:
    decoder = SpeculativeDecoder(*pair)
    runs = [decoder.generate([4, 5], max_new_tokens=20, seed=seed).token_ids for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    given = decoder.generate([4, 5], max_new_tokens=20, generator=torch.Generator().manual_seed(1))
    assert given.token_ids == runs[0]


def test_the_exact_overlap_agrees_with_the_counted_acceptance(pair: tuple[LanguageModel, LanguageModel]) -> None:
    decoder = SpeculativeDecoder(*pair, trimmed=trim(pair[1], small_vocab(120)), draft_len=3)
    accepted = tested = 0
    betas: list[float] = []
    for seed in range(25):
        generation = decoder.generate([seed, 7], max_new_tokens=60, seed=seed, ignore_stop_ids=True, measure=True)
        assert len(generation.overlaps) == generation.n_tested
        accepted, tested = accepted + generation.n_accepted, tested + generation.n_tested
        betas += generation.overlaps
    # accepted drafts are Bernoulli(β): four standard deviations
    deviation = sum(b * (1 - b) for b in betas) ** 0.5
    assert abs(accepted - sum(betas)) < 4 * deviation
    assert tested > 1000


def test_streaming_gives_the_same_text_piece_by_piece(pair: tuple[LanguageModel, LanguageModel]) -> None:
    decoder = SpeculativeDecoder(*pair)
    whole = decoder.generate("abc", max_new_tokens=40, seed=3)
    steps = list(decoder.stream("abc", max_new_tokens=40, seed=3))
    assert "".join(step.text for step in steps) == whole.text == pair[0].decode(whole.token_ids)
    assert [step.finish_reason for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert all(len(step.block.token_ids) == step.block.n_accepted + 1 for step in steps[:-1])
    # a stream that is dropped half-way leaves the decoder usable
    next(iter(decoder.stream("abc", max_new_tokens=40, seed=3)))
    assert decoder.generate("abc", max_new_tokens=40, seed=3).token_ids == whole.token_ids


def test_stop_tokens_end_the_output_inside_a_block(pair: tuple[LanguageModel, LanguageModel]) -> None:
    decoder = SpeculativeDecoder(*pair, draft_len=6)
    free = decoder.generate([9, 9], max_new_tokens=200, params=SamplingParams(temperature=2.0), seed=0)
    end = byte_tokenizer().eos_token_id
    assert free.finish_reason == "stop"
    assert free.token_ids[-1] == end
    assert end not in free.token_ids[:-1]
    assert END not in free.text
    assert all(step.block.n_tested <= len(step.block.token_ids) for step in free.steps)
    forced = decoder.generate(
        [9, 9], max_new_tokens=200, params=SamplingParams(temperature=2.0), seed=0, ignore_stop_ids=True
    )
    assert forced.n_tokens == 200
    assert forced.finish_reason == "length"


def test_a_stop_string_is_cut_off_with_what_follows(pair: tuple[LanguageModel, LanguageModel]) -> None:
    decoder = SpeculativeDecoder(*pair)
    free = decoder.generate("xyz", max_new_tokens=60, seed=5, ignore_stop_ids=True)
    at = next(i for i in range(10, len(free.text) - 3) if "\ufffd" not in free.text[i : i + 3])
    stop = free.text[at : at + 3]
    stopped = decoder.generate("xyz", max_new_tokens=60, seed=5, ignore_stop_ids=True, stop=[stop, "never this one"])
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.find(stop)]
    assert free.token_ids[: stopped.n_tokens] == stopped.token_ids


def test_the_output_fills_the_context_and_no_more(pair: tuple[LanguageModel, LanguageModel]) -> None:
    target, _ = pair
    short = tiny_model(name="short", seed=9, max_position_embeddings=100)
    prompt = [3] * 60
    full = SpeculativeDecoder(target, short).generate(prompt, max_new_tokens=400, seed=1, ignore_stop_ids=True)
    assert (full.n_tokens, full.finish_reason) == (256 - 60, "context")
    # beyond the drafter's 100 positions the target goes on alone
    assert not full.steps[-1].block.draft_ids
    assert full.steps[0].block.draft_ids


def test_a_repetition_penalty_changes_nothing_but_the_law(pair: tuple[LanguageModel, LanguageModel]) -> None:
    target = pair[0]
    params = SamplingParams(temperature=0.0, repetition_penalty=1.4)
    ours = SpeculativeDecoder(*pair).generate([1, 2, 3], max_new_tokens=40, params=params)
    theirs: Any = target.model.generate(
        torch.tensor([[1, 2, 3]]),
        do_sample=False,
        repetition_penalty=1.4,
        max_new_tokens=40,
        pad_token_id=0,
        attention_mask=torch.ones(1, 3, dtype=torch.long),
    )
    assert list(ours.token_ids) == theirs[0, 3:].tolist()


def test_chat_messages_go_through_the_template(pair: tuple[LanguageModel, LanguageModel]) -> None:
    decoder = SpeculativeDecoder(*pair)
    assert decoder.encode([{"role": "user", "content": "hi"}]) == decoder.encode("[user]hi[assistant]")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([], "empty"),
        ([1, 999], "not tokens"),
        ([1, -1], "not tokens"),
        ([1.5], "not tokens"),
        ([5] * 256, "no room"),
        ([5] * 300, "no room"),
    ],
)
def test_prompts_that_cannot_be_used(pair: tuple[LanguageModel, LanguageModel], prompt: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpeculativeDecoder(*pair).generate(prompt)


@pytest.mark.parametrize("kwargs", [{"max_new_tokens": 0}, {"seed": -3}, {"stop": [""]}])
def test_options_that_cannot_be_used(pair: tuple[LanguageModel, LanguageModel], kwargs: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SpeculativeDecoder(*pair).generate([1], **kwargs)


def test_a_draft_length_below_one_is_refused(pair: tuple[LanguageModel, LanguageModel]) -> None:
    with pytest.raises(InputError, match="draft length"):
        SpeculativeDecoder(*pair, draft_len=0)


@pytest.mark.parametrize("broken", ["target", "drafter"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_give_nan_are_named(broken: str, value: float) -> None:
    models = {"target": tiny_model(seed=1, name="target"), "drafter": tiny_model(seed=2, name="drafter")}
    decoder = SpeculativeDecoder(models["target"], models["drafter"])
    models[broken].model.get_output_embeddings().weight[17] = value  # after the probe: a fault that appears later
    with pytest.raises(NumericalError, match=broken):
        decoder.generate([1, 2, 3], max_new_tokens=5, seed=0)


def test_a_model_whose_cache_cannot_be_rolled_back_is_refused(pair: tuple[LanguageModel, LanguageModel]) -> None:
    recurrent = tiny_model(name="recurrent", family="mamba", state_size=4)
    with pytest.raises(ModelError, match="rolled back"):
        SpeculativeDecoder(recurrent, pair[1])


def test_another_tokenizer_is_refused(pair: tuple[LanguageModel, LanguageModel]) -> None:
    from dataclasses import replace

    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(200)}, unk_token="w0")), eos_token="w1"
    )
    with pytest.raises(MismatchError, match="different tokenizers"):
        SpeculativeDecoder(pair[0], replace(pair[1], tokenizer=other))
