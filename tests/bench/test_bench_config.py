from __future__ import annotations

import json
from typing import Any

import pytest

from outlex.bench import BenchConfig
from outlex.errors import InputError


def config(**changes: Any) -> BenchConfig:
    return BenchConfig(**{"target": "t", "drafter": "d", "prompts": "p.jsonl", **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("draft_len", 0),
        ("repeats", True),
        ("n_prompts", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("batch_size", 0),
        ("baselines", ("ar", "medusa")),
        ("baselines", ("ar", "ar")),
        ("baselines", ()),
        ("temperatures", ()),
        ("temperatures", (1.0, 1.0)),
    ],
)
def test_refuses_what_cannot_be_measured(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"{name} cannot be used[\s\S]*change --{name.replace('_', '-')}"):
        config(**{name: value})


@pytest.mark.parametrize("changes", [{"temperatures": (-1.0,)}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 1.0}])
def test_refuses_sampling_parameters_before_anything_is_loaded(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="sampling parameter"):
        config(**changes)


@pytest.mark.parametrize("changes", [{"baselines": ("untrimmed",)}, {"baselines": (), "trimmed": ("dir",)}, {}])
def test_methods_with_a_drafter_need_one(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"need a drafter[\s\S]*give --drafter"):
        config(drafter=None, **changes)


def test_transformers_decodes_one_request_at_a_time() -> None:
    with pytest.raises(InputError, match=r"transformers-ar[\s\S]*leave --batch-size out"):
        config(baselines=("untrimmed", "transformers-ar"), batch_size=4)


def test_a_target_alone_can_be_measured() -> None:
    assert config(drafter=None, baselines=("ar", "transformers-ar")).drafter is None


def test_json_tells_everything_but_the_folders_of_this_machine() -> None:
    made = config(target="/home/someone/models/big", trimmed=("/data/t1", "near/t2"), output="/x/y.json")
    told = made.to_json()
    assert told == json.loads(json.dumps(told))
    assert told["target"] == "…/big"
    assert told["trimmed"] == ["…/t1", "near/t2"]
    assert told["prompts"] == "p.jsonl"
    assert told["temperatures"] == [0.0, 1.0]
    assert "someone" not in json.dumps(told)
    assert {"output", "cache_dir"}.isdisjoint(told)
