"""The reference law is the model's own forward, however many texts are read together."""

from __future__ import annotations

import torch
from tiny_models import tiny_model, tiny_pair

from outlex.conformance import ModelReference
from outlex.conformance.reference import penalized, prefixes_of
from outlex.sampling import SamplingParams, penalize_repetition

PROMPT = [10, 20, 30]
PREFIXES = [(), (5,), (5, 6), (5, 6, 7), (5, 9), (8,), (8, 8, 8, 8)]


def plain(model: torch.nn.Module, prefix: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([[*PROMPT, *prefix]])).logits[0, -1]
    return logits


def test_rows_are_those_of_a_plain_forward() -> None:
    for loaded in (tiny_pair()[0], tiny_model(family="gemma3_text", name="sliding", sliding_window=4)):
        reference = ModelReference(loaded)
        rows = reference.logits(PROMPT, PREFIXES)
        assert rows.shape == (len(PREFIXES), loaded.n_rows) == (len(PREFIXES), reference.n_target)
        for row, prefix in zip(rows, PREFIXES, strict=True):
            assert torch.allclose(row, plain(loaded.model, prefix), atol=2e-4), prefix
        # again, from the prompt that was kept, in another order
        again = reference.logits(PROMPT, PREFIXES[::-1])
        assert torch.allclose(again.flip(0), rows, atol=2e-4)


def test_a_narrower_head_is_padded_and_a_wider_one_cut() -> None:
    target, _ = tiny_pair()
    own = ModelReference(target).logits(PROMPT, [(5,)])
    wide = ModelReference(target, n_target=264).logits(PROMPT, [(5,)])
    narrow = ModelReference(target, n_target=100).logits(PROMPT, [(5,)])
    assert torch.equal(wide[:, :260], own)
    assert bool((wide[:, 260:] == -torch.inf).all())
    assert torch.equal(narrow, own[:, :100])


def test_each_text_is_evaluated_once_and_neighbours_come_together() -> None:
    outputs = [(1, 2, 3), (1, 2, 4), (1, 2, 3), (7,)]
    chunks = list(prefixes_of(outputs, chunk=2))
    assert chunks == [[(), (1,)], [(1, 2)]]


def test_the_penalty_reads_prompt_and_output() -> None:
    logits = torch.linspace(-2, 2, 40).repeat(2, 1)
    params = SamplingParams(repetition_penalty=1.5)
    got = penalized(logits, [1, 39], [(), (38,)], params)
    for row, seen_ids in enumerate(([1, 39], [1, 39, 38])):
        seen = torch.zeros(40, dtype=torch.bool)
        seen[seen_ids] = True
        assert torch.equal(got[row], penalize_repetition(logits[row], seen, 1.5))
    assert penalized(logits, [1], [(), (2,)], SamplingParams()) is logits
