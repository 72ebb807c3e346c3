"""Traces of a drafter with another tokenizer: its state at a position is that after the text so far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from two_tokenizers import with_tokenizer

from outlex.calibration.collect import TraceRequest, collect_traces
from outlex.calibration.traces import TraceSet
from outlex.drafters import RetokenizingDrafter
from outlex.errors import MismatchError
from outlex.models import LanguageModel
from outlex.models.output_head import output_head
from outlex.models.runner import BodyRunner
from outlex.proposals import DraftScores, Tli
from outlex.sampling import SamplingParams
from outlex.vocab.token_bytes import shared_tokens
from outlex.vocab.tokenizer_facts import facts_of

TEXTS = {"a": ("again and", " again, and again"), "b": ("日本", "語のテキスト"), "c": ("def", " add(a, b):\n    x")}


@pytest.fixture(scope="module")
def pair(make_byte_level: Callable[..., Any]) -> tuple[LanguageModel, LanguageModel]:
    target = with_tokenizer(make_byte_level(n_entries=270), name="t", seed=1)
    return target, with_tokenizer(make_byte_level(n_entries=380), name="d", seed=2)


def requests(target: LanguageModel, names: str = "abc") -> list[TraceRequest]:
    encoded = {name: [tuple(target.encode(text)) for text in TEXTS[name]] for name in names}
    return [TraceRequest(id=name, domain="d", prompt_ids=p, response_ids=r) for name, (p, r) in encoded.items()]


@pytest.fixture(scope="module")
def traced(pair: tuple[LanguageModel, LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cross") / "t"
    collect_traces(*pair, requests(pair[0]), directory, cross_tokenizer=True)
    return directory


@torch.inference_mode()
def test_rows_are_the_states_after_the_text_so_far(pair: tuple[LanguageModel, LanguageModel], traced: Path) -> None:
    target, drafter = pair
    traces, row, n_respelled = TraceSet.load(traced), 0, 0
    of_id = {request.id: request for request in requests(target)}
    for prompt in traces.prompts:
        request = of_id[prompt.id]
        last: list[int] = []
        for n in range(prompt.n_positions):
            text = target.decode([*request.prompt_ids, *(request.response_ids or ())[:n]])
            assert "�" not in text or prompt.id == "b"
            ids = drafter.encode(text)
            n_respelled += ids[: len(last)] != last
            last = ids
            if "�" not in text:
                wanted = BodyRunner(drafter).forward(torch.tensor(ids))[0][-1]
                torch.testing.assert_close(traces.drafter_hidden[row], wanted, atol=1e-4, rtol=1e-4)
            row += 1
    assert row == len(traces)
    assert n_respelled > 5, "every context was the beginning of the next: nothing was tested"
    assert traces.header.stop_ids == tuple(target.stop_ids)


@torch.inference_mode()
def test_the_law_of_a_row_is_the_one_that_decoding_draws_from(
    pair: tuple[LanguageModel, LanguageModel], traced: Path
) -> None:
    target, loaded = pair
    traces = TraceSet.load(traced)
    traces.check_pair(target, loaded)
    facts, own = facts_of(target.tokenizer), facts_of(loaded.tokenizer)
    shared = shared_tokens(facts, own, n_draft=loaded.n_rows, n_target=target.n_rows)
    hidden = traces.drafter_hidden
    scores = DraftScores(logits=output_head(loaded).logits(hidden), token_map=shared, hidden=hidden)
    laws = Tli().law(scores, SamplingParams()).dense()
    drafter = RetokenizingDrafter(target, loaded)
    [request] = requests(target, traces.prompts[0].id)
    news = list(request.prompt_ids)
    for n, token_id in enumerate(request.response_ids or ()):
        state = drafter.advance(torch.tensor(news), n_accepted=0, features=None)
        live = Tli().law(drafter.head.score(state), SamplingParams()).dense()
        torch.testing.assert_close(laws[n : n + 1], live, atol=1e-5, rtol=1e-3)
        news = [token_id]


def test_more_prompts_can_be_added(pair: tuple[LanguageModel, LanguageModel], traced: Path, tmp_path: Path) -> None:
    collect_traces(*pair, requests(pair[0], "a"), tmp_path / "t", cross_tokenizer=True)
    traces = collect_traces(*pair, requests(pair[0], "ac"), tmp_path / "t", cross_tokenizer=True)
    assert [prompt.id for prompt in traces.prompts] == ["a", "c"]
    whole = TraceSet.load(traced)
    [place] = [i for i, prompt in enumerate(whole.prompts) if prompt.id == "c"]
    rows = whole.select([place])
    torch.testing.assert_close(traces.select([1]).drafter_hidden, rows.drafter_hidden, atol=1e-5, rtol=1e-5)


def test_it_has_to_be_asked_for(pair: tuple[LanguageModel, LanguageModel], tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="different tokenizers") as caught:
        collect_traces(*pair, requests(pair[0]), tmp_path / "t")
    assert "--cross-tokenizer" in str(caught.value)


def test_who_counts_on_one_tokenizer_is_refused(pair: tuple[LanguageModel, LanguageModel], traced: Path) -> None:
    traces, heads = TraceSet.load(traced), [output_head(model) for model in pair]
    with pytest.raises(MismatchError, match="another tokenizer") as caught:
        traces.check_heads(*heads)
    assert "--cross-tokenizer" in str(caught.value)
    traces.check_heads(*heads, cross_tokenizer=True)


def test_one_tokenizer_stays_one(pair: tuple[LanguageModel, LanguageModel], tmp_path: Path) -> None:
    target, _ = pair
    traces = collect_traces(target, target, requests(target), tmp_path / "t", cross_tokenizer=True)
    assert traces.header.drafter_tokenizer is None
    traces.check_heads(output_head(target), output_head(target))
