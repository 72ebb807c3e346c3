"""Engines as black boxes: our loop, transformers, and what vLLM is asked for."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from tiny_models import tiny_pair

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, trim
from outlex.conformance import CheckConfig, Engine, ModelReference, verify_engine
from outlex.conformance.engine_outlex import OutlexEngine
from outlex.conformance.engine_transformers import TransformersEngine
from outlex.conformance.engine_vllm import VllmEngine, json_settings
from outlex.errors import InputError, ModelError
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.tokenizer_facts import facts_of

PROMPTS = [[10, 20, 30] * 6, [65] * 12]  # prompt lookup finds something in them


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
    assert found.n_accepted is not None
    assert 0 < found.n_accepted < 2 * 12 + 60 * 5
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
    assert found.n_accepted == 0
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
            if params["min_p"]:
                raise ValueError("not yet supported")
            asked["prompts"], asked["params"] = prompts, params
            output = types.SimpleNamespace(token_ids=[1, 2])
            return [types.SimpleNamespace(outputs=[output] * params["n"]) for _ in prompts]

        def get_metrics(self) -> list[Any]:
            return [types.SimpleNamespace(name="vllm:spec_decode_num_accepted_tokens", value=3.0)]

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
    assert engine.n_accepted == 3
    uncounted = VllmEngine("m", speculative=None, dtype="float32", settings={"disable_log_stats": True})
    assert uncounted.n_accepted is None
    with pytest.raises(ModelError, match="not yet supported") as refused:
        engine.sample([7, 8], params=SamplingParams(min_p=0.1), n_samples=3, max_new_tokens=2, seed=1)
    assert "--min-p" in str(refused.value)
    with pytest.raises(InputError, match="said elsewhere: dtype") as refused_input:
        VllmEngine("m", speculative=None, dtype="float32", settings={"dtype": "half", "enforce_eager": True})
    assert "--engine-dtype" in str(refused_input.value)
    with pytest.raises(ModelError, match="does not start") as refused:
        VllmEngine("broken", speculative=None, dtype="float32")
    assert "--engine-dtype float32" in str(refused.value)
