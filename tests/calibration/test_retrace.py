"""Another drafter on traced texts: the same rows as if the pair had been traced, without the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from two_tokenizers import with_tokenizer

from outlex.calibration.collect import TraceRequest, collect_traces
from outlex.calibration.retrace import retrace
from outlex.calibration.traces import TraceSet
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.models import LanguageModel

TEXTS = {"a": ("again and", " again, and again"), "b": ("日本", "語のテキスト"), "c": ("def", " add(a, b):\n    x")}


@pytest.fixture(scope="module")
def models(make_byte_level: Callable[..., Any]) -> dict[str, LanguageModel]:
    own = make_byte_level(n_entries=270)
    return {
        "target": with_tokenizer(own, name="t", seed=1),
        "same": with_tokenizer(own, name="s", seed=2),
        "other": with_tokenizer(make_byte_level(n_entries=380), name="o", seed=3),
    }


@pytest.fixture(scope="module")
def requests(models: dict[str, LanguageModel]) -> list[TraceRequest]:
    encoded = {name: [tuple(models["target"].encode(text)) for text in pair] for name, pair in TEXTS.items()}
    return [TraceRequest(id=name, domain="d", prompt_ids=p, response_ids=r) for name, (p, r) in encoded.items()]


@pytest.fixture(scope="module")
def traced(models: dict[str, LanguageModel], requests: list[TraceRequest], tmp_path_factory: Any) -> TraceSet:
    return collect_traces(models["target"], models["target"], requests, tmp_path_factory.mktemp("traced") / "t")


@pytest.mark.parametrize("name", ["same", "other"])
def test_it_is_what_tracing_the_pair_would_give(
    name: str, models: dict[str, LanguageModel], requests: list[TraceRequest], traced: TraceSet, tmp_path: Path
) -> None:
    crosses = name == "other"
    whole = collect_traces(models["target"], models[name], requests, tmp_path / "whole", cross_tokenizer=crosses)
    target = models["target"].tokenizer
    found = retrace(traced, models[name], tmp_path / "t", batch_size=2, cross_tokenizer=crosses, tokenizer=target)
    by_id = {prompt.id: i for i, prompt in enumerate(whole.prompts)}
    wanted = torch.cat([whole.select([by_id[prompt.id]]).drafter_hidden for prompt in found.prompts])
    torch.testing.assert_close(found.drafter_hidden, wanted, atol=1e-5, rtol=1e-5)
    assert found.target_hidden.equal(traced.target_hidden)
    assert found.prompt_top.equal(traced.prompt_top)
    assert found.header.drafter == whole.header.drafter
    assert found.header.drafter_tokenizer == whole.header.drafter_tokenizer
    assert (found.header.drafter_tokenizer is not None) == crosses
    found.check_pair(models["target"], models[name])


def test_a_run_that_was_cut_off_goes_on(models: dict[str, LanguageModel], traced: TraceSet, tmp_path: Path) -> None:
    target, told = models["target"].tokenizer, list[int]()

    def stop(n_done: int, n_total: int, label: str) -> None:
        told.append(n_done)
        if n_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrace(traced, models["same"], tmp_path / "t", batch_size=1, tokenizer=target, on_progress=stop)
    assert told == [0, 1, 2]
    again = retrace(traced, models["same"], tmp_path / "t", batch_size=1, tokenizer=target)
    once = retrace(traced, models["same"], tmp_path / "once", batch_size=1, tokenizer=target)
    assert again.drafter_hidden.equal(once.drafter_hidden)
    assert again.prompts == traced.prompts
    with pytest.raises(ArtifactError, match="made otherwise") as caught:
        retrace(traced, models["target"], tmp_path / "t", tokenizer=target)
    assert "-o" in str(caught.value)


def test_what_does_not_fit_is_refused(models: dict[str, LanguageModel], traced: TraceSet, tmp_path: Path) -> None:
    target = models["target"].tokenizer
    with pytest.raises(MismatchError, match="different tokenizers") as caught:
        retrace(traced, models["other"], tmp_path / "t", tokenizer=target)
    assert "--cross-tokenizer" in str(caught.value)
    with pytest.raises(MismatchError, match="not the tokenizer") as caught:
        retrace(traced, models["same"], tmp_path / "t", tokenizer=models["other"].tokenizer)
    assert "outlex trace" in str(caught.value)
    with pytest.raises(InputError, match="batch-size") as refused:
        retrace(traced, models["same"], tmp_path / "t", batch_size=0, tokenizer=target)
    assert "leave it out" in str(refused.value)
    short = with_tokenizer(target, name="s", seed=2, max_position_embeddings=8)
    with pytest.raises(InputError, match="too long") as refused:
        retrace(traced, replace(models["same"], model=short.model), tmp_path / "t", tokenizer=target)
    assert "longer context" in str(refused.value)
    assert not (tmp_path / "t").exists()
