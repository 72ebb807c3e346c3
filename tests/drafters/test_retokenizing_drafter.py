"""A drafter with another tokenizer: its context, its cache, the law of what comes out, and greedy text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model
from two_tokenizers import letters, qwen_like, reference_ids, with_tokenizer

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, Tli, Vanilla, trim
from outlex.affinity import StringPrefix, nearest
from outlex.drafters import RetokenizingDrafter
from outlex.errors import InputError, MismatchError
from outlex.models import LanguageModel
from outlex.models.runner import BodyRunner
from outlex.proposals import Mixed, Proposal, SparseKernel
from outlex.testing import TableTarget, assert_lossless
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.token_bytes import TokenBytes
from outlex.vocab.tokenizer_facts import facts_of

GREEDY = SamplingParams(temperature=0.0)
# A history: for each block the drafts, how many of them stand, and the token that follows.
HISTORY = st.lists(
    st.tuples(st.lists(st.integers(0, 329), min_size=1, max_size=3), st.integers(0, 3), st.integers(0, 331)),
    min_size=1,
    max_size=6,
)
PROMPTS = st.sampled_from(["again and again", "日本語 🙂", "def add(a, b):\n    return a", "x"])


@pytest.fixture(scope="module")
def source(make_byte_level: Callable[..., Any]) -> Any:
    return make_byte_level(n_entries=330)


@pytest.fixture(scope="module")
def target(source: Any) -> LanguageModel:
    # two rows of padding
    return with_tokenizer(source, name="t", seed=1, n_rows=332)


@pytest.fixture(scope="module")
def drafters(make_byte_level: Callable[..., Any], target: LanguageModel) -> dict[str, RetokenizingDrafter]:
    into = make_byte_level(n_entries=300)
    other = qwen_like(make_byte_level(n_entries=390))
    return {
        "llama": RetokenizingDrafter(target, with_tokenizer(into, name="d", seed=2)),
        "gemma3_text": RetokenizingDrafter(
            target, with_tokenizer(other, name="w", seed=3, n_layers=3, family="gemma3_text", sliding_window=6)
        ),
    }


def fresh(drafter: RetokenizingDrafter) -> torch.Tensor:
    """The last hidden state of a prefill of what the drafter's cache should hold."""
    return BodyRunner(drafter.loaded).forward(torch.tensor(drafter.context_ids))[0][-1]


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@settings(max_examples=40)
@given(prompt=PROMPTS, history=HISTORY)
@torch.inference_mode()
def test_after_any_history_the_context_is_the_text_and_the_cache_is_that_of_a_prefill(
    family: str, prompt: str, history: list[tuple[list[int], int, int]], source: Any, drafters: Any
) -> None:
    drafter: RetokenizingDrafter = drafters[family]
    spelled = TokenBytes.of(facts_of(source)).spelled
    tokenizer: Any = drafter.loaded.tokenizer
    byte_ids = TokenBytes.of(facts_of(tokenizer)).ids
    special = {
        i: tokenizer.convert_tokens_to_ids(source.convert_ids_to_tokens(i)) for i in facts_of(source).special_ids
    }
    news, runs = list(source(prompt)["input_ids"]), [b""]
    wanted: list[int] = []
    drafter.begin()
    for drafts, n_accepted, next_id in history:
        hidden = drafter.advance(torch.tensor(news), n_accepted=0, features=None)
        for i in news:
            if i in special:
                wanted += [*reference_of_ended(runs.pop(), tokenizer, byte_ids), special[i]]
                runs.append(b"")
            elif i < len(spelled):
                runs[-1] += spelled[i] or b""
        expected = [*wanted, *reference_ids(runs[-1], tokenizer, byte_ids)]
        assert list(drafter.context_ids) == expected
        torch.testing.assert_close(hidden[0], fresh(drafter), atol=1e-4, rtol=1e-4)
        for draft in drafts[:-1]:
            before = drafter.context_ids
            hidden = drafter.step(torch.tensor([draft]))
            assert drafter.context_ids[: len(before)] == before, "drafts are not spelled anew inside a block"
            row = int(drafter.head.score(hidden).token_map.to_draft(torch.tensor(draft)))
            assert row < 0 or drafter.context_ids[len(before) :] == (row,)
            torch.testing.assert_close(hidden[0], fresh(drafter), atol=1e-4, rtol=1e-4)
        news = [*drafts[:n_accepted], next_id]


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@torch.inference_mode()
def test_a_spelling_may_change_further_back_than_the_last_time(family: str) -> None:
    # "abc" is a, bc; then "abcd" is one token: the cache has to go back before a place it went back to already, which a
    # sliding window of six does not remember for ever
    window: dict[str, Any] = {"sliding_window": 6} if family == "gemma3_text" else {}
    single = ("a", "b", "c", "d")
    loaded = with_tokenizer(letters((*single, "bc", "bcd", "abcd")), seed=3, family=family, n_layers=3, **window)
    drafter = RetokenizingDrafter(with_tokenizer(letters(single), seed=1), loaded)
    lengths = []
    for letter in "ddddddddabcdabcddddddddddddddddddddddabcd":
        hidden = drafter.advance(torch.tensor([single.index(letter)]), n_accepted=0, features=None)
        torch.testing.assert_close(hidden[0], fresh(drafter), atol=1e-4, rtol=1e-4)
        lengths.append(len(drafter.context_ids))
    assert lengths[8:12] == [9, 10, 10, 9]
    assert lengths[-4:] == [n + lengths[-5] for n in (1, 2, 2, 1)]


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@settings(max_examples=15)
@given(ids=st.lists(st.integers(0, 331), min_size=1, max_size=12), prompt=PROMPTS)
@torch.inference_mode()
def test_the_states_of_a_text_are_those_of_its_tokens_one_by_one(
    family: str, ids: list[int], prompt: str, source: Any, drafters: Any
) -> None:
    drafter: RetokenizingDrafter = drafters[family]
    prompt_ids = list(source(prompt)["input_ids"])
    ids = [*ids, *source("xagain andagain")["input_ids"]]
    found = drafter.states(prompt_ids, ids)
    drafter.begin()
    news = [prompt_ids, *([i] for i in ids[:-1])]
    wanted = [drafter.advance(torch.tensor(part), n_accepted=0, features=None) for part in news]
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_states_of_a_text_beyond_the_context_too(target: LanguageModel, source: Any) -> None:
    drafter = RetokenizingDrafter(target, with_tokenizer(source, seed=8, max_position_embeddings=80))
    ids = list(source("again and " * 10)["input_ids"])
    found = drafter.states(ids[:2], ids[2:])
    assert found.shape == (len(ids) - 2, 32)
    torch.testing.assert_close(found[-1], fresh(drafter), atol=1e-4, rtol=1e-4)


def reference_of_ended(data: bytes, tokenizer: Any, byte_ids: Any) -> list[int]:
    """The text before a special token: what is not complete there never will be, as if a letter came next."""
    return reference_ids(data + b"\xff", tokenizer, byte_ids)[:-1]


@torch.inference_mode()
def test_accepted_drafts_are_not_read_again_unless_their_spelling_changes(target: LanguageModel, source: Any) -> None:
    drafter = RetokenizingDrafter(target, with_tokenizer(source, seed=4))
    n_read: list[int] = []
    forward = drafter._body.forward

    def counting(ids: torch.Tensor, **kwargs: Any) -> Any:
        n_read.append(len(ids))
        return forward(ids, **kwargs)

    drafter._body.forward = counting  # type: ignore[method-assign]
    a, b, space = (source.convert_tokens_to_ids(piece) for piece in ("x", "y", "Ġ"))
    drafter.advance(torch.tensor([a, space, a]), n_accepted=0, features=None)
    drafter.step(torch.tensor([space]))
    drafter.step(torch.tensor([b]))
    drafter.advance(torch.tensor([space, b, space, a]), n_accepted=3, features=None)
    assert n_read == [3, 1, 1, 2]
    drafter.advance(torch.tensor([a]), n_accepted=0, features=None)
    assert n_read[-1] == 1
    # a special token that is nothing to it still gives a state: the last id is read again
    drafter.advance(torch.tensor([331]), n_accepted=0, features=None)
    assert n_read[-1] == 1


# --- the law ---------------------------------------------------------------------------------------------------

OURS, THEIRS = ("a", "b", "ab"), ("b", "a", "ba")


def table(seed: int, width: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
    @functools.cache
    def logits_of(context: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((seed, width, context)) % 2**63)
        return torch.randn(width, dtype=torch.float64, generator=generator) * 1.5

    return logits_of


@functools.cache
def letter_drafter() -> RetokenizingDrafter:
    target = with_tokenizer(letters(OURS), seed=5, n_rows=4)
    return RetokenizingDrafter(
        target, with_tokenizer(letters(THEIRS), seed=6, n_rows=5, n_layers=1, sharpness=3.0, dtype=torch.float64)
    )


def prefix_kernel() -> SparseKernel:
    """A third of the mass of each shared token goes to the tokens it begins, which the drafter lacks."""
    spelled = TokenBytes.of(facts_of(letters(OURS))).spelled
    shared, cold = torch.tensor([0, 1]), torch.tensor([2])
    affinity = StringPrefix.of_bytes(spelled, spelled, prior=torch.ones(4, dtype=torch.float64))
    neighbours = nearest(affinity, shared, n_neighbours=2, among=torch.tensor([1, 2]))
    assert neighbours.tolist() == [[0, 2], [1, 1]]
    assert cold.tolist() == [2]
    weights = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    return SparseKernel(sources=shared, neighbours=neighbours, weights=weights, n_target=4)


LAWS: dict[str, Proposal] = {
    "vanilla": Vanilla(),
    "tli": Tli(),
    "prefix": prefix_kernel(),
    "prefix, mixed": Mixed(inner=prefix_kernel(), weights=((0.6,),)),
}


@pytest.mark.parametrize(
    ("name", "draft_len", "n_blocks"),
    [*((name, *size) for name in ("vanilla", "tli", "prefix") for size in ((2, 1), (1, 2))), ("prefix, mixed", 1, 1)],
)
@torch.inference_mode()
def test_the_law_is_the_targets(name: str, draft_len: int, n_blocks: int) -> None:
    assert_lossless(
        target=TableTarget(table(7, 4), n_target=4),
        drafter=letter_drafter(),
        proposal=LAWS[name],
        params=SamplingParams(),
        prompt_ids=[0, 2],
        draft_len=draft_len,
        n_blocks=n_blocks,
    )


@torch.inference_mode()
def test_a_token_the_drafter_lacks_is_read_letter_by_letter() -> None:
    drafter = letter_drafter()
    drafter.begin()
    drafter.advance(torch.tensor([1]), n_accepted=0, features=None)
    drafter.step(torch.tensor([2]))
    assert list(drafter.context_ids) == [0, 1, 0]  # b, and "ab" as a, b
    drafter.advance(torch.tensor([2]), n_accepted=1, features=None)
    assert list(drafter.context_ids) == [2, 0]  # "bab" is "ba", "b" to it


# --- whole requests --------------------------------------------------------------------------------------------


def test_greedy_text_is_the_targets_alone(target: LanguageModel, drafters: dict[str, RetokenizingDrafter]) -> None:
    for family, drafter in drafters.items():
        for prompt in ("again and", "日本語", "def f"):
            alone = SpeculativeDecoder(target).generate(prompt, max_new_tokens=40, params=GREEDY)
            decoder = SpeculativeDecoder(target, drafter, draft_len=3)
            drafted = decoder.generate(prompt, max_new_tokens=40, params=GREEDY)
            assert drafted.token_ids == alone.token_ids, (family, prompt)


@pytest.mark.parametrize("params", [GREEDY, SamplingParams()], ids=["greedy", "sampled"])
def test_with_one_tokenizer_it_drafts_like_any_other_drafter(params: SamplingParams) -> None:
    # one token a byte: every text has one spelling only, so block by block all has to be the same
    target, loaded = (tiny_model(name="t", seed=1, n_rows=257, n_layers=n) for n in (2, 1))
    theirs = dict(target.model.state_dict())
    loaded.model.load_state_dict({key: theirs[key] for key in loaded.model.state_dict()})
    plain, translated = (
        SpeculativeDecoder(target, drafter, draft_len=3).generate(
            "again", max_new_tokens=60, params=params, seed=5, ignore_stop_ids=True, measure=True
        )
        for drafter in (loaded, RetokenizingDrafter(target, loaded))
    )
    assert translated.token_ids == plain.token_ids
    assert [step.block.draft_ids for step in translated.steps] == [step.block.draft_ids for step in plain.steps]
    assert translated.overlaps == pytest.approx(plain.overlaps, abs=1e-4)
    assert 0 < plain.n_accepted < plain.n_tested


def test_a_text_beyond_the_drafters_context_is_seen_from_a_later_place(target: LanguageModel, source: Any) -> None:
    short = with_tokenizer(source, seed=8, max_position_embeddings=80)
    drafter = RetokenizingDrafter(target, short)
    longest = 0
    for step in SpeculativeDecoder(target, drafter, draft_len=4).stream(
        "again and again " * 3, max_new_tokens=150, params=SamplingParams(), seed=1, ignore_stop_ids=True
    ):
        assert step.block.draft_ids or step.finish_reason
        longest = max(longest, len(drafter.context_ids))
    assert 10 < longest <= 80
    # one block longer than all of the context
    drafter.begin()
    with torch.inference_mode():
        drafter.advance(torch.tensor([0]), n_accepted=0, features=None)
        for _ in range(100):
            drafter.step(torch.tensor([1]))
    assert 10 < len(drafter.context_ids) <= 80


def test_a_trimmed_head_goes_through_both_maps(target: LanguageModel, drafters: dict[str, RetokenizingDrafter]) -> None:
    loaded = drafters["llama"].loaded
    facts = facts_of(loaded.tokenizer)
    vocab = SubVocab.from_ranking(
        range(256),
        size=120,
        facts=facts,
        n_target=loaded.n_rows,
        must_keep=MustKeep(reasons={"stop": (loaded.tokenizer.eos_token_id,)}),
        provenance={"from": "a test"},
    )
    drafter = RetokenizingDrafter(target, loaded, trimmed=trim(loaded, vocab))
    whole, hidden = drafters["llama"].head, torch.randn(2, loaded.hidden_size)
    scores, all_scores = drafter.head.score(hidden), whole.score(hidden)
    assert (scores.token_map.n_draft, scores.token_map.n_target) == (120, 332)
    rows = vocab.draft_to_target
    torch.testing.assert_close(scores.logits, all_scores.logits[:, rows])
    assert scores.token_map.draft_to_target.equal(all_scores.token_map.to_target(rows))
    generation = SpeculativeDecoder(target, drafter).generate("again", max_new_tokens=12, params=GREEDY)
    assert generation.token_ids == (
        SpeculativeDecoder(target).generate("again", max_new_tokens=12, params=GREEDY).token_ids
    )


@torch.inference_mode()
def test_what_only_the_drafter_has_is_drawn_as_the_target_begins_to_spell_it(
    target: LanguageModel, drafters: dict[str, RetokenizingDrafter]
) -> None:
    moved = 0
    for drafter in drafters.values():
        proposal, head = drafter.respelled(), drafter.head
        scores = head.score(torch.randn(3, drafter.loaded.hidden_size))
        law = proposal.law(scores, SamplingParams()).dense()
        q = scores.logits.masked_fill(proposal.first_ids < 0, -torch.inf).softmax(-1)
        wanted = torch.zeros_like(law)
        for column, index in enumerate(proposal.first_ids.tolist()):
            if index >= 0:
                wanted[:, index] += q[:, column]
        torch.testing.assert_close(law, wanted)
        moved += int((proposal.first_ids >= 0).sum()) - int((scores.token_map.draft_to_target >= 0).sum())
        decoder = SpeculativeDecoder(target, drafter, proposal=proposal, draft_len=3)
        alone = SpeculativeDecoder(target).generate("again and", max_new_tokens=20, params=GREEDY)
        assert decoder.generate("again and", max_new_tokens=20, params=GREEDY).token_ids == alone.token_ids
    assert moved > 20


# --- what is refused -------------------------------------------------------------------------------------------


def test_another_tokenizer_must_be_asked_for(target: LanguageModel, drafters: dict[str, RetokenizingDrafter]) -> None:
    loaded = drafters["llama"].loaded
    with pytest.raises(MismatchError, match="different tokenizers") as caught:
        SpeculativeDecoder(target, loaded)
    assert "--cross-tokenizer" in str(caught.value)
    assert "cross_tokenizer=True" in str(caught.value)
    decoder = SpeculativeDecoder(target, loaded, cross_tokenizer=True)
    assert isinstance(decoder.drafter, RetokenizingDrafter)


def test_a_drafter_for_another_target_is_refused(target: LanguageModel, drafters: Any) -> None:
    with pytest.raises(MismatchError, match="another target") as caught:
        SpeculativeDecoder(drafters["llama"].loaded, drafters["llama"])
    assert "RetokenizingDrafter(target, drafter)" in str(caught.value)


def test_heads_that_do_not_fit_are_refused(target: LanguageModel, drafters: dict[str, RetokenizingDrafter]) -> None:
    loaded = drafters["llama"].loaded
    facts = facts_of(loaded.tokenizer)

    class Fitted:
        name = "preview-64"
        base_source = "x"

    with pytest.raises(InputError, match="fitted head") as caught:
        RetokenizingDrafter(target, loaded, trimmed=Fitted())  # type: ignore[arg-type]
    assert "outlex trim" in str(caught.value)
    only_cold = [i for i, j in enumerate(drafters["llama"].head.token_map.draft_to_target.tolist()) if j < 0][:1]  # type: ignore[attr-defined]
    assert only_cold, "the toy drafter shares every token"
    vocab = SubVocab.from_ranking(
        only_cold,
        size=1,
        facts=facts,
        n_target=loaded.n_rows,
        must_keep=MustKeep(reasons={}),
        provenance={"from": "a test"},
    )
    with pytest.raises(MismatchError, match="no token that the target has") as refused:
        RetokenizingDrafter(target, loaded, trimmed=trim(loaded, vocab))
    assert "more rows" in str(refused.value)
    other = with_tokenizer(letters(OURS), n_rows=4)
    with pytest.raises(MismatchError):
        RetokenizingDrafter(target, other, trimmed=trim(loaded, vocab))
