"""Servers as black boxes: what they are asked for, how ids are read, and everything that can be wrong with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from completion_servers import Answer, server
from tiny_models import byte_tokenizer, tiny_pair

from outlex import SamplingParams
from outlex.conformance import CheckConfig, ModelReference, verify_engine
from outlex.conformance.engine_openai import OpenAiEngine
from outlex.conformance.openai_client import OpenAiClient
from outlex.errors import InputError, MismatchError, ModelError

END = byte_tokenizer().eos_token_id


def engine_at(url: str, **settings: Any) -> OpenAiEngine:
    client = OpenAiClient(url, api_key=settings.pop("api_key", None), timeout_s=settings.pop("timeout_s", 5.0))
    model = client.served_model(settings.pop("model", "tiny"))
    return OpenAiEngine(client, model=model, **{"target": tiny_pair()[0], "dtype": "float32", **settings})


def ask(engine: OpenAiEngine, n_samples: int = 2, **params: Any) -> list[tuple[int, ...]]:
    return engine.sample([1, 2], params=SamplingParams(**params), n_samples=n_samples, max_new_tokens=3, seed=0)


def choices(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": "length", "text": "", **fields} for _ in range(body["n"])]}


# --- what is asked ----------------------------------------------------------------------------------------------


def test_every_filter_is_stated_because_servers_have_defaults_of_their_own() -> None:
    with server(lambda body: choices(body, token_ids=[7])) as (url, asked):
        ask(engine_at(url))
        ask(engine_at(url), temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.1)
    law = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    assert [asked[0][key] for key in law] == [1.0, 1.0, -1, 0.0, 1.0, 0.0, 0.0]
    assert [asked[1][key] for key in law] == [0.7, 0.9, 5, 0.1, 1.1, 0.0, 0.0]
    assert asked[0]["prompt"] == [1, 2]
    assert "seed" not in asked[0]
    assert "logprobs" not in asked[0]  # another path through some engines


def test_a_server_that_knows_openais_own_fields_only_is_asked_for_those() -> None:
    own = {"model", "prompt", "max_tokens", "n", "temperature", "top_p", "logprobs"}

    def answer(body: dict[str, Any]) -> Any:
        unknown = set(body) - own - {"top_k"}
        logprobs = {"content": [{"id": 7}, {"id": 8}]} if "logprobs" in body else None
        return (400, {"error": f"unknown: {unknown}"}) if unknown else choices(body, logprobs=logprobs)

    with server(answer, to_text=answer) as (url, asked):
        assert ask(engine_at(url), 2, top_k=5) == [(7, 8)] * 2
    assert asked[-1]["top_k"] == 5  # without it the law would be another one
    assert len(asked) == 2  # what it refuses was learned from the text; then without, and with logprobs


def test_a_refusal_that_fewer_fields_do_not_mend_is_told_as_it_was() -> None:
    with (
        server(lambda body: (400, {"error": "too long" if "min_p" in body else "another"})) as (url, asked),
        pytest.raises(ModelError, match="too long") as refused,
    ):
        ask(engine_at(url))
    assert "context" in str(refused.value)
    assert len(asked) == 2


# --- which tokens came back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"token_ids": [7, 8, 9]},
        {"logprobs": {"content": [{"id": 7}, {"id": 8}, {"id": 9}]}},
        {"logprobs": {"tokens": ["token_id:7", "token_id:8", "token_id:9"]}},
    ],
    ids=["token_ids", "ids in logprobs", "token_id:N"],
)
def test_ids_are_read_in_every_known_spelling(fields: dict[str, Any]) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return choices(body, **{key: value for key, value in fields.items() if key in body or key == "token_ids"})

    with server(answer) as (url, asked):
        assert ask(engine_at(url), 40) == [(7, 8, 9)] * 40
    assert [body["n"] for body in asked] == ([32, 8] if "token_ids" in fields else [32, 32, 8])


def test_texts_are_spelled_anew_where_nothing_else_is_stated() -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return {**choices(body, text="abc"), "usage": {"completion_tokens": 3}}

    wanted = tuple(tiny_pair()[0].encode("abc", add_special_tokens=False))
    with server(answer) as (url, asked):
        assert ask(engine_at(url), 2) == [wanted, wanted]
    assert [body["n"] for body in asked] == [2, 2, 1, 1]  # one output a request, so that the count is its own


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: {**choices(body, text="abc"), "usage": {"completion_tokens": 2}},
        lambda body: choices(body, text="abc"),
    ],
    ids=["another count", "no count"],
)
def test_a_text_with_another_spelling_is_refused(answer: Answer) -> None:
    with server(answer) as (url, _), pytest.raises(ModelError, match="traced back") as refused:
        ask(engine_at(url), 1)
    assert "--temperature 0" in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"token_ids": [7]}, (7, END)),
        ({"token_ids": [7, END]}, (7, END)),
        ({"token_ids": [7], "stop_reason": 9}, (7, 9)),  # a stop token that only the server knows
        ({"token_ids": [7, 9], "stop_reason": 9}, (7, 9)),
        ({"token_ids": [7, 9], "matched_stop": 9}, (7, 9)),
        ({"token_ids": [7, 9], "stop_reason": "END"}, (7, 9)),  # a stop string: nothing else was drawn
    ],
)
def test_a_stop_token_was_drawn_whether_it_is_returned_or_not(fields: dict[str, Any], wanted: tuple[int, ...]) -> None:
    with server(lambda body: choices(body, **fields, finish_reason="stop")) as (url, _):
        assert ask(engine_at(url), 1) == [wanted]


def test_outputs_that_something_else_ended_are_no_samples() -> None:
    # judging what is left of them would bias the test
    with (
        server(lambda body: choices(body, token_ids=[7], finish_reason="content_filter")) as (url, _),
        pytest.raises(ModelError, match="cut an output short") as refused,
    ):
        ask(engine_at(url), 1)
    assert "filters" in str(refused.value)


# --- wrong servers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "what", "remedy"),
    [
        (lambda body: (404, {"error": "no such model"}), "refused", "--served-model"),
        (lambda body: (401, {"error": "no key"}), "HTTP 401", "OPENAI_API_KEY"),
        (lambda body: (500, {"error": "EngineDeadError"}), "failed at", "log"),
        (lambda body: b"<html>", "does not answer", "--base-url"),
        (lambda body: b"{", "IncompleteRead", "its log"),
        (lambda body: {"choices": []}, "not one of the completions", "OpenAI-compatible"),
        (lambda body: {"choices": ["x"]}, "not one of the completions", "OpenAI-compatible"),
        (lambda body: [1], "not one of the completions", "OpenAI-compatible"),
        (lambda body: choices(body, text=None), "not one of the completions", "OpenAI-compatible"),
    ],
    ids=["refused", "no key", "dead engine", "no JSON", "hung up", "no choices", "no objects", "a list", "no text"],
)
def test_servers_that_answer_nonsense_are_errors_with_a_remedy(answer: Answer, what: str, remedy: str) -> None:
    with server(answer) as (url, _), pytest.raises(ModelError) as refused:
        ask(engine_at(url), 1)
    assert what in str(refused.value)
    assert remedy in str(refused.value)


def test_a_wrong_model_a_dead_server_and_no_address_are_errors() -> None:
    with server(lambda body: choices(body)) as (url, _), pytest.raises(ModelError, match="does not serve") as refused:
        engine_at(url, model="other")
    assert "--served-model tiny" in str(refused.value)
    with pytest.raises(ModelError, match="does not answer") as refused:
        engine_at(url)
    assert "--base-url" in str(refused.value)
    with pytest.raises(InputError, match="no address"):
        engine_at("localhost:8000")


def test_the_only_model_of_a_server_needs_no_name() -> None:
    with server(lambda body: choices(body, token_ids=[1, 2, 3])) as (url, asked):
        engine = engine_at(url, model=None)
        ask(engine)
        assert {body["model"] for body in asked} == {"tiny"}
        assert "tiny" in engine.name
    for models, name in (({"data": [{"id": "a"}, {"id": "b"}]}, "a"), ({"data": []}, "NAME")):
        with (
            server(lambda body: choices(body), models=models) as (url, _),
            pytest.raises(ModelError, match=f"which model is meant(?s:.*)--served-model {name}"),
        ):
            engine_at(url, model=None)


def test_another_tokenizer_is_noticed_where_the_server_says_how_it_spells() -> None:
    own = tiny_pair()[0]

    def spells(shift: int, start: list[int]) -> Answer:
        def to_text(body: dict[str, Any]) -> dict[str, Any]:
            ids = start + [i + shift for i in own.encode(body["prompt"], add_special_tokens=False)]
            return {"choices": [{"token_ids": [1], "prompt_token_ids": ids}]}

        return to_text

    for start in ([], [END]):  # texts may begin with a token of their own
        with server(lambda body: choices(body, token_ids=[7]), to_text=spells(0, start)) as (url, _):
            assert ask(engine_at(url), 1) == [(7,)]
    with (
        server(lambda body: choices(body), to_text=spells(1, [])) as (url, _),
        pytest.raises(MismatchError, match="another tokenizer") as refused,
    ):
        engine_at(url)
    assert "--target" in str(refused.value)


def test_a_server_that_draws_from_the_law_passes() -> None:
    target = tiny_pair()[0]
    reference = ModelReference(target)
    generator = torch.Generator().manual_seed(1)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        out = []
        for _ in range(body["n"]):
            ids: tuple[int, ...] = ()
            for _ in range(body["max_tokens"]):
                logits = reference.logits(body["prompt"], [ids])[0]
                law = torch.softmax(logits / max(body["temperature"], 1e-6), -1)
                ids = (*ids, int(torch.multinomial(law, 1, generator=generator)))
            out.append({"token_ids": list(ids), "finish_reason": "length"})
        return {"choices": out}

    with server(answer) as (url, _):
        found = verify_engine(
            engine_at(url),
            reference,
            [[10, 20, 30], [65, 66]],
            CheckConfig(n_samples=40, max_new_tokens=3, greedy_tokens=4),
            target_name="tiny",
        )
    assert found.lossless_so_far
