"""Models of a few kilobytes, rows made by hand, and methods that only pretend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from tiny_models import byte_tokenizer, tiny_pair

from outlex.bench.result import BenchResult
from outlex.bench.rows import MethodInfo, Row, Run
from outlex.drafters.trimmed import TrimmedDrafter, trim
from outlex.sampling import SamplingParams
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import facts_of


@cache
def tiny_trimmed(size: int) -> TrimmedDrafter:
    """The first `size` rows of the tiny drafter's head."""
    facts = facts_of(byte_tokenizer())
    vocab = SubVocab(
        draft_to_target=torch.arange(size),
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
        provenance={"file": "/home/someone/counts.json"},
    )
    return trim(tiny_pair()[1], vocab)


def row(**changes: Any) -> Row:
    """A run of "ar" on prompt "a"; 4 tokens in 2 seconds."""
    values: dict[str, Any] = {
        "token_ids": (1, 2, 3, 4),
        "n_passes": 4,
        "n_drafted": 0,
        "n_accepted": 0,
        "n_tested": 0,
        "sum_beta": 0.0,
        "draft_s": 0.0,
        "target_s": 1.5,
        "draft_step_s": None,
        "target_pass_s": 0.5,
        "method": "ar",
        "prompt_id": "a",
        "domain": "code",
        "n_prompt": 3,
        "temperature": 0.0,
        "repeat": 0,
        "order": 0,
        "seed": 0,
        "wall_s": 2.0,
    }
    return Row(**{**values, **changes})


def result_of(rows: list[Row], *, draft_len: int = 4) -> BenchResult:
    """A result with these rows and whatever else it needs."""
    model = {"name": "tiny", "dtype": "float32", "source": "tiny", "n_bytes": 10**9}
    return BenchResult(
        config={"draft_len": draft_len, "max_new_tokens": 4, "repeats": 1},
        environment={
            "cpu": "a processor",
            "threads": 2,
            "openmp": ["libiomp5.so"],
            "device_name": None,
            "commit": "0123456789abcdef",
            "uncommitted_changes": True,
            "date_utc": "2026-01-01T00:00:00+00:00",
            "versions": {"torch": "2", "transformers": "5", "outlex": "0.1"},
        },
        models={
            "target": model,
            "drafter": {**model, "source": "small", "n_bytes": 5 * 10**8},
            "trimmed": [],
        },
        memory={"peak_rss": 2 * 10**9, "anonymous": None, "peak_device": None},
        methods=tuple(
            MethodInfo(name=name, description=name, draft_bytes=100, target_bytes=400)
            for name in dict.fromkeys(r.method for r in rows)
        ),
        rows=tuple(rows),
    )


@dataclass
class FakeClock:
    """Time that passes only when somebody says so."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class FakeMethod:
    """Takes `wall_s` of the fake clock and `paused_s` more; notes each call in a list shared by all."""

    name: str
    clock: FakeClock
    wall_s: float = 1.0
    paused_s: float = 0.0
    calls: list[tuple[str, int, float, int, int]] = field(default_factory=list)
    before: Callable[[list[int]], None] = lambda prompt_ids: None

    @property
    def info(self) -> MethodInfo:
        return MethodInfo(name=self.name, description="pretends")

    def run(self, prompt_ids: list[int], params: SamplingParams, *, max_new_tokens: int, seed: int) -> Run:
        self.before(prompt_ids)
        self.calls.append((self.name, len(prompt_ids), params.temperature, max_new_tokens, seed))
        self.clock.seconds += self.wall_s + self.paused_s
        return Run(token_ids=(7,) * max_new_tokens, paused_s=self.paused_s)
