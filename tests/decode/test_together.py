"""Requests that share forward passes come to what each comes to alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from fitted_heads import fitted
from tiny_models import byte_tokenizer, tiny_model, tiny_pair

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, trim
from outlex.decode.taking_turns import Turn, take_turns
from outlex.decode.together import generate_together
from outlex.errors import InputError, ModelError
from outlex.vocab.tokenizer_facts import facts_of

PROMPTS = [
    torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (3, 40, 1, 17, 8)
]
SEEDS = [11, 12, 13, 14, 15]


def head(kind: str) -> Any:
    if kind == "untrimmed":
        return None
    if kind == "trimmed":
        facts = facts_of(byte_tokenizer())
        vocab = SubVocab(
            draft_to_target=torch.arange(0, 200),
            n_target=260,
            n_tokenizer=facts.n_entries,
            tokenizer_fingerprint=facts.fingerprint,
            provenance={"from": "a test"},
        )
        return trim(tiny_pair()[1], vocab)
    return fitted(kind)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["untrimmed", "trimmed", "preview", "in-context", "both"])
def test_each_request_gets_what_it_would_get_alone(kind: str, temperature: float) -> None:
    target, drafter = tiny_pair()
    decoder = SpeculativeDecoder(target, drafter, trimmed=head(kind), draft_len=3)
    options: dict[str, Any] = {"max_new_tokens": 30, "params": SamplingParams(temperature=temperature), "measure": True}
    together = generate_together(decoder, PROMPTS, seeds=SEEDS, **options)
    rejected = 0
    for prompt, seed, got in zip(PROMPTS, SEEDS, together, strict=True):
        alone = decoder.generate(prompt, seed=seed, **options)
        assert got.token_ids == alone.token_ids
        assert got.finish_reason == alone.finish_reason
        assert [step.block.draft_ids for step in got.steps] == [step.block.draft_ids for step in alone.steps]
        assert got.overlaps == pytest.approx(alone.overlaps, abs=1e-4)
        rejected += got.n_tested - got.n_accepted
    assert rejected > 5  # caches were rolled back, by different numbers of tokens
    assert len({len(got.steps) for got in together}) > 1  # and some requests went on when others had ended


def test_a_target_alone_can_be_shared() -> None:
    decoder = SpeculativeDecoder(tiny_pair()[0])
    options: dict[str, Any] = {"max_new_tokens": 12, "params": SamplingParams(temperature=1.0)}
    together = generate_together(decoder, PROMPTS, seeds=SEEDS, **options)
    assert [got.token_ids for got in together] == [
        decoder.generate(prompt, seed=seed, **options).token_ids for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]


def test_sliding_windows_are_refused_before_anything_is_decoded() -> None:
    target = tiny_model(name="t", seed=1, family="mistral", sliding_window=8)
    with pytest.raises(ModelError, match="--batch-size 1"):
        generate_together(
            SpeculativeDecoder(target), PROMPTS, seeds=SEEDS, max_new_tokens=4, params=SamplingParams(temperature=0.0)
        )


def test_a_drafter_that_reads_the_target_is_refused() -> None:
    class Conditioned:
        name = "eagle"
        feature_layers = (1,)

    decoder = SpeculativeDecoder(tiny_pair()[0], Conditioned())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="independent"):
        generate_together(decoder, PROMPTS, seeds=SEEDS, max_new_tokens=4, params=SamplingParams(temperature=0.0))


def test_calls_of_a_kind_are_answered_together_and_the_fullest_gate_opens_first() -> None:
    opened: list[tuple[str, list[int]]] = []

    def gate(name: str) -> Any:
        def answer(calls: dict[int, int]) -> dict[int, int]:
            opened.append((name, sorted(calls)))
            return {number: 10 * argument for number, argument in calls.items()}

        return answer

    draft, verify = gate("draft"), gate("verify")

    def loop(turn: Turn) -> int:
        answers = [turn.call(draft, turn.number)]
        if turn.number:
            answers.append(turn.call(draft, turn.number))
        answers.append(turn.call(verify, 1 if turn.number else 5))
        return sum(answers)

    assert take_turns([loop, loop, loop]) == [50, 30, 50]
    assert opened == [("draft", [0, 1, 2]), ("draft", [1, 2]), ("verify", [0, 1, 2])]


@pytest.mark.parametrize("where", ["loop", "gate"])
def test_an_error_ends_all_loops_and_comes_through(where: str) -> None:
    before = threading.active_count()

    def gate(calls: dict[int, int]) -> dict[int, int]:
        if where == "gate":
            raise KeyboardInterrupt
        return calls

    def loop(turn: Turn) -> None:
        turn.call(gate, 0)
        if turn.number == 1:
            raise ValueError("of loop 1")
        turn.call(gate, 0)

    with pytest.raises(KeyboardInterrupt if where == "gate" else ValueError):
        take_turns([loop, loop, loop])
    assert threading.active_count() == before
