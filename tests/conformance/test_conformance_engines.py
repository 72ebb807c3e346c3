"""Engines as black boxes: our loop, transformers, vLLM's missing, and servers of every kind of answer."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_pair

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, trim
from outlex.conformance import CheckConfig, Engine, ModelReference, verify_engine
from outlex.conformance.engine_openai import OpenAiEngine
from outlex.conformance.engine_outlex import OutlexEngine
from outlex.conformance.engine_transformers import TransformersEngine
from outlex.conformance.engine_vllm import VllmEngine, json_settings
from outlex.errors import InputError, ModelError
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.tokenizer_facts import facts_of

PROMPTS = [[10, 20, 30], [65, 66]]
END = byte_tokenizer().eos_token_id


def our_engine() -> OutlexEngine:
    target, drafter = tiny_pair()
    vocab = SubVocab.from_ranking(
        range(0, 257, 2),
        size=100,
        facts=facts_of(target.tokenizer),
        n_target=260,
        must_keep=MustKeep(reasons={"stop": tuple(sorted(target.stop_ids))}),
        provenance={},
    )
    return OutlexEngine(SpeculativeDecoder(target, drafter, trimmed=trim(drafter, vocab), draft_len=3))


ENGINES: dict[str, Callable[[], Engine]] = {
    "outlex": our_engine,
    "transformers": lambda: TransformersEngine(*tiny_pair(), draft_len=3),
    "prompt lookup": lambda: TransformersEngine(tiny_pair()[0], None, prompt_lookup=True, draft_len=3),
}


@pytest.mark.parametrize("name", ENGINES)
def test_engines_that_keep_the_law_pass(name: str) -> None:
    target, drafter = tiny_pair()
    found = verify_engine(
        ENGINES[name](),
        ModelReference(target),
        PROMPTS,
        CheckConfig(n_samples=60, max_new_tokens=5, greedy_tokens=12, params=SamplingParams(temperature=0.8)),
        target_name=target.name,
        drafter=ModelReference(drafter),
    )
    assert found.lossless_so_far
    assert found.greedy is not None
    assert (found.greedy.n_equal, found.greedy.n_tokens) == (2, 24)
    assert json.loads(json.dumps(found.to_json()))["engine"] == found.engine


def test_our_loop_gives_the_same_outputs_alone_and_together() -> None:
    engine = our_engine()
    together = engine.sample([10, 20], params=SamplingParams(), n_samples=5, max_new_tokens=6, seed=3)
    engine._batch_size = 1
    assert engine.sample([10, 20], params=SamplingParams(), n_samples=5, max_new_tokens=6, seed=3) == together


def test_a_wrong_target_is_flagged_through_a_real_engine() -> None:
    # the engine runs another model than the reference: the grossest fault there is
    target, drafter = tiny_pair()
    found = verify_engine(
        OutlexEngine(SpeculativeDecoder(drafter, None)),
        ModelReference(target),
        PROMPTS,
        CheckConfig(n_samples=100, max_new_tokens=4, greedy_tokens=8),
        target_name=target.name,
        drafter=ModelReference(drafter),
    )
    assert not found.lossless_so_far
    assert found.greedy is not None
    assert found.greedy.departures
    assert found.sampled is not None
    assert found.sampled.flagged_at is not None


def test_vllm_that_is_not_there_and_configs_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "vllm", missing)
    with pytest.raises(ModelError, match="vLLM is not installed") as refused:
        VllmEngine("x", speculative=None, dtype="float32")
    assert "docs/engines.md" in str(refused.value)
    assert json_settings(None, "--engine-args") is None
    assert json_settings('{"model": "d"}', "--engine-args") == {"model": "d"}
    for wrong in ("{", "[1]", "4"):
        with pytest.raises(InputError, match="no JSON object") as refused_input:
            json_settings(wrong, "--speculative-config")
        assert "--speculative-config" in str(refused_input.value)


def test_vllm_is_asked_for_the_law_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Llm:
        def __init__(self, **arguments: Any) -> None:
            if arguments["model"] == "broken":
                raise ValueError("no such model")
            asked["engine"] = arguments

        def generate(self, prompts: list[Any], params: dict[str, Any], *, use_tqdm: bool) -> list[Any]:
            asked["prompts"], asked["params"] = prompts, params
            output = types.SimpleNamespace(token_ids=[1, 2])
            return [types.SimpleNamespace(outputs=[output] * params["n"]) for _ in prompts]

    module: Any = types.SimpleNamespace(LLM=Llm, SamplingParams=dict, __version__="0")
    monkeypatch.setitem(sys.modules, "vllm", module)
    engine = VllmEngine(
        "m", speculative={"num_speculative_tokens": 4}, dtype="bfloat16", settings={"enforce_eager": True}
    )
    assert asked["engine"]["enforce_eager"] is True
    assert asked["engine"]["speculative_config"] == {"num_speculative_tokens": 4}
    assert (asked["engine"]["dtype"], asked["engine"]["generation_config"]) == ("bfloat16", "vllm")
    for params, n_prompts, n in ((SamplingParams(temperature=0.0), 3, 1), (SamplingParams(top_k=5), 1, 3)):
        outputs = engine.sample([7, 8], params=params, n_samples=3, max_new_tokens=2, seed=1)
        assert outputs == [(1, 2)] * 3
        assert asked["prompts"] == [{"prompt_token_ids": [7, 8]}] * n_prompts
        assert (asked["params"]["n"], asked["params"]["top_k"]) == (n, params.top_k)
        assert asked["params"]["ignore_eos"] is True
        assert "seed" not in asked["params"]
    with pytest.raises(ModelError, match="does not start") as refused:
        VllmEngine("broken", speculative=None, dtype="float32")
    assert "--engine-dtype float32" in str(refused.value)


# --- servers ----------------------------------------------------------------------------------------------------

Answer = Callable[[dict[str, Any]], Any]


@contextmanager
def server(answer: Answer, *, models: Any = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers completions with `answer(body)`; the bodies it got are kept."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, models if models is not None else {"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            value = answer(body)
            self._send(*value) if isinstance(value, tuple) else self._send(200, value)

        def _send(self, code: int, value: Any) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}/v1", asked
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def engine_at(url: str, **settings: Any) -> OpenAiEngine:
    return OpenAiEngine(
        url, **{"model": "tiny", "target": tiny_pair()[0], "dtype": "float32", "timeout_s": 5.0, **settings}
    )


def ask(engine: OpenAiEngine, n_samples: int = 2, **params: Any) -> list[tuple[int, ...]]:
    return engine.sample([1, 2], params=SamplingParams(**params), n_samples=n_samples, max_new_tokens=3, seed=0)


def choices(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": "length", "text": "", **fields} for _ in range(body["n"])]}


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
    with server(lambda body: choices(body, **fields)) as (url, asked):
        assert ask(engine_at(url), 40, top_k=5, min_p=0.1, repetition_penalty=1.1) == [(7, 8, 9)] * 40
    assert [body["n"] for body in asked] == [32, 8]
    assert asked[0]["prompt"] == [1, 2]
    assert (asked[0]["top_k"], asked[0]["min_p"], asked[0]["repetition_penalty"]) == (5, 0.1, 1.1)
    assert "seed" not in asked[0]


def test_texts_are_spelled_anew_where_nothing_else_is_stated() -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return {**choices(body, text="abc"), "usage": {"completion_tokens": 3}}

    wanted = tuple(tiny_pair()[0].encode("abc", add_special_tokens=False))
    with server(answer) as (url, asked):
        assert ask(engine_at(url), 2) == [wanted, wanted]
    assert [body["n"] for body in asked] == [2, 1, 1]  # one output a request, so that the count is its own


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


def test_a_stop_token_that_is_not_returned_was_drawn_all_the_same() -> None:
    with server(lambda body: choices(body, token_ids=[7], finish_reason="stop")) as (url, _):
        assert ask(engine_at(url), 1) == [(7, END)]
    with server(lambda body: choices(body, token_ids=[7, END], finish_reason="stop")) as (url, _):
        assert ask(engine_at(url), 1) == [(7, END)]


@pytest.mark.parametrize(
    ("answer", "what", "remedy"),
    [
        (lambda body: (404, {"error": "no such model"}), "HTTP 404", "--served-model"),
        (lambda body: b"<html>", "does not answer", "--base-url"),
        (lambda body: {"choices": []}, "not one of the completions", "OpenAI-compatible"),
        (lambda body: [1], "not one of the completions", "OpenAI-compatible"),
        (lambda body: choices(body, text=None), "not one of the completions", "OpenAI-compatible"),
    ],
    ids=["refused", "no JSON", "no choices", "a list", "no text"],
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
            PROMPTS,
            CheckConfig(n_samples=40, max_new_tokens=3, greedy_tokens=4),
            target_name="tiny",
        )
    assert found.lossless_so_far
