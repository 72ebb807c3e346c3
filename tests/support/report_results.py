"""One small result of every kind, as JSON values: what `outlex report` reads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

ENVIRONMENT: dict[str, Any] = {
    "date_utc": "2026-01-02T03:04:05+00:00",
    "argv": ["outlex", "experiment", "pruning", "--traces", "traces", "-o", "a folder"],
    "versions": {"outlex": "0.1.0", "torch": "2.9"},
    "commit": "0123456789abcdef0123",
    "uncommitted_changes": False,
    "system": "Linux x86_64",
    "cpu": "a processor",
    "usable_cores": 2,
    "load_average": 0.25,
    "threads": 2,
}
DOMAINS = ("all", "code", "prose")
EVIL = "<script>window.hacked = 1</script>"


def estimate(value: float, half: float = 0.01) -> list[float]:
    """[value, low, high]."""
    return [value, value - half, value + half]


def _named(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "n": 100}


def _experiment(name: str, columns: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": "outlex-experiment",
        "schema": 1,
        "name": name,
        "question": f"What does {name} say?",
        "environment": ENVIRONMENT,
        "config": {
            "target": "big",
            "drafter": "small",
            "temperature": 1.0,
            "prompts": {"held_out": {"prompts": 7, "positions": 321}},
        },
        "columns": columns,
        "rows": rows,
        "notes": ["A first note.", "A second note."],
    }


def _sampler_rows(**common: Any) -> list[dict[str, Any]]:
    """TLI, one that wins, one that loses too much to be drawn to scale, and a mixture that is TLI."""
    samplers = (
        ("tli", None, 0.0),
        ("cold-row", None, 0.02),
        ("sparse-kernel, x", None, -0.4),
        ("learned + tli", [[0.0]], 0.0),
    )
    return [
        {
            **common,
            "domain": domain,
            "sampler": sampler,
            "weights": weights,
            "chosen": sampler == "cold-row",
            "alpha": estimate(0.61 + place / 100 + gain),
            "gain": estimate(gain, 0.003 if gain else 0.0),
        }
        for place, domain in enumerate(DOMAINS)
        for sampler, weights, gain in samplers
    ]


def _pruning() -> dict[str, Any]:
    rows = [
        {**row, "untrimmed": 0.8, "ceiling": ceiling}
        for size, pruned, ceiling in ((100, 0.99, 0.7), (1000, 0.9, 0.93))
        for row in _sampler_rows(n_draft=size, pruned=pruned)
    ]
    return _experiment("pruning", ["pruned", "n_draft", "sampler", "alpha", "gain"], rows)


def _skewed() -> dict[str, Any]:
    rows = [row for row in _sampler_rows(setting="Zipf, exponent 1", n_draft=256) if row["domain"] == "all"]
    rare = [row for row in _sampler_rows(setting="rare text", n_draft=256) if row["domain"] == "all"]
    rows += [{key: value for key, value in row.items() if key != "weights"} for row in rare]
    return _experiment("skewed", ["setting", "n_draft", "sampler", "alpha", "gain"], rows)


def _scaling() -> dict[str, Any]:
    quality = [
        {
            "part": "quality",
            "N": n,
            "n_draft": n // 16,
            "T_Ω": t,
            "sampler": name,
            "alpha": 0.4 + t,
            "tli": 0.6,
            "distance": 0.1,
            "step_s": 1e-6 * n**power,
        }
        for n in (1024, 2048, 4096)
        for t in (0.01, 0.0001)
        for name, power in (("rdk-first-order", 1.0), ("rdk-exact", 2.0))
    ]
    timed = [
        {"part": "step times", "N": n, "n_draft": 64, "sampler": name, "step_s": seconds, "of head": 0.05}
        for n in (16384, 32768)
        for name, seconds in (("tli", 0.001), ("whole head", n * 1e-6))
    ]
    return _experiment("scaling", ["part", "N", "sampler", "alpha", "step_s"], [*quality, *timed])


def _decomposition() -> dict[str, Any]:
    rows = [
        {
            "n_draft": 100,
            "positions": positions,
            "n": 300,
            "sampler": sampler,
            "gain on cold": estimate(gained),
            "bonus lost": estimate(lost),
            "gain": estimate(gained - lost),
            "share gaining": 0.5,
            "moved": gained,
        }
        for positions in ("all", "oov mass > 0.5")
        for sampler, gained, lost in (("cold-row", 0.05, 0.02), ("vanilla", 0.0, 0.03), ("still", 0.0, 0.0))
    ]
    return _experiment("decomposition", ["n_draft", "positions", "sampler", "gain"], rows)


def _cascade() -> dict[str, Any]:
    rows = [
        {"n_draft": 100, "inner γ": 2, "γ": g, "mbsu cascade": 1.2, "mbsu whole": 1.1 + g / 100, "mbsu trimmed": 1.3}
        for g in (2, 4)
    ]
    return _experiment("cascade", ["n_draft", "γ", "mbsu cascade"], rows)


def _greedy() -> dict[str, Any]:
    rows = [
        {
            "n_draft": 100,
            "sampler": sampler,
            "arg-max moved": 0.1,
            "alpha": estimate(0.5),
            "gain": estimate(gain),
            "greedy target": estimate(0.6),
            "greedy gain": estimate(-gain),
        }
        for sampler, gain in (("tli", 0.0), ("cold-row", 0.012))
    ]
    return _experiment("greedy", ["n_draft", "sampler", "gain"], rows)


def _bench() -> dict[str, Any]:
    """As `outlex bench --json` prints it: there is no checksum to be made for it."""

    def summary(temperature: float, method: str, speed: float, **changes: Any) -> dict[str, Any]:
        return {
            "temperature": temperature,
            "method": method,
            "n_runs": 6,
            "n_tokens": 200,
            "wall_s": 200 / speed,
            "tokens_per_s": speed,
            "speedups": [],
            "acceptance": None,
            "acceptance_by_domain": {},
            "acceptance_kept": None,
            "block_efficiency": 1.0,
            "draft_s": 0.0,
            "target_s": 190 / speed,
            "other_s": 10 / speed,
            "draft_step_s": None,
            "target_pass_s": 0.01,
            "expected_speedup": None,
            "mbsu": None,
            "n_same_as_ar": None,
            **changes,
        }

    def drafting(temperature: float, method: str, speed: float, alpha: float) -> dict[str, Any]:
        both = {"beta": _named(alpha), "counted": _named(alpha - 0.01)}
        return summary(
            temperature,
            method,
            speed,
            speedups=[
                {"over": "ar", "totals": speed / 10, "median": _named(speed / 10 + 0.01, 0.1), "quartiles": [1, 2]}
            ],
            acceptance=both,
            acceptance_by_domain={name: {"beta": _named(alpha + k / 100)} for k, name in enumerate(("code", "prose"))},
            draft_s=80 / speed,
            head_s=30 / speed,
            target_s=100 / speed,
            other_s=20 / speed,
        )

    return {
        "kind": "outlex-bench",
        "schema": 1,
        "config": {"draft_len": 4, "max_new_tokens": 64},
        "environment": ENVIRONMENT,
        "models": {"target": {"name": "big"}, "drafter": {"name": "small"}, "trimmed": []},
        "complete": True,
        "summary": [
            one
            for t in (0.0, 1.0)
            for one in (
                summary(t, "ar", 10.0),
                drafting(t, "untrimmed", 12.5, 0.8 - t / 10),
                drafting(t, "trimmed-4096", 16.25, 0.75 - t / 10),
            )
        ],
        "verdicts": ["T = 0: a verdict."],
        "rows": [],
    }


def _forecast() -> dict[str, Any]:
    def cell(candidate: str, domain: str | None, alpha: float) -> dict[str, Any]:
        return {
            "candidate": candidate,
            "n_draft": 4096,
            "temperature": 1.0,
            "draft_len": 4,
            "domain": domain,
            "n_prompts": 9,
            "n_positions": 900,
            "acceptance_rate": _named(alpha),
            "block_efficiency": _named(1 + alpha),
            "ceiling": 0.97,
            "tokens_per_s": 20.0,
            "over_untrimmed": _named(0.5 + alpha, 0.05),
        }

    return {
        "target": "big",
        "drafter": "small",
        "proposal": "tli",
        "cells": [
            cell(name, domain, alpha + (0.01 if domain else 0.0))
            for domain in (None, "code", "prose")
            for name, alpha in (("untrimmed", 0.8), ("trimmed-4096", 0.7))
        ],
        "verdicts": [
            {
                "candidate": "trimmed-4096",
                "temperature": 1.0,
                "draft_len": 4,
                "decision": "trim",
                "kept": 0.9,
                "needed": 0.8,
                "in_seconds": True,
                "sentence": "It pays.",
            }
        ],
        "notes": ["A note of the forecast."],
        "times": None,
    }


def _fit() -> dict[str, Any]:
    def trial(name: str, weights: Any, gain: float) -> dict[str, Any]:
        return {
            "name": name,
            "mode": "",
            "weights": weights,
            "acceptance": {"1": estimate(0.6 + gain)},
            "gain": {"1": estimate(gain)},
        }

    return {
        "output": "fitted",
        "head": {},
        "chosen": "cold-row + tli",
        "reason": "It is surely better.",
        "prompts": {"fit": 5, "calibrate": 3, "held_out": 4},
        "trials": [trial("tli", None, 0.0), trial("cold-row", None, -0.02), trial("cold-row", [[0.3]], 0.015)],
        "next": "",
    }


def token(text: str, kind: str, block: int, p: float, q: float | None, **changes: Any) -> dict[str, Any]:
    """A token of a trace."""
    return {
        "token_id": 7,
        "piece": text,
        "text": text,
        "kind": kind,
        "block": block,
        "p": p,
        "q": q,
        "beta": None if q is None else min(p, q),
        "in_draft": True,
        "draft": None,
        "top_p": [
            {"token_id": 7, "piece": text, "p": p, "q": q},
            {"token_id": 8, "piece": " other", "p": 0.1, "q": 0.2},
        ],
        "top_q": [] if q is None else [{"token_id": 8, "piece": " other", "p": 0.1, "q": 0.2}],
        **changes,
    }


def _generation() -> dict[str, Any]:
    rejected = {"token_id": 9, "piece": " draft", "p": 0.05, "q": 0.7}
    tokens = [
        token("Hello", "accepted", 0, 0.9, 0.8),
        token(EVIL, "recovered", 0, 0.6, 0.0, in_draft=False, draft=rejected),
        token(" a\nb", "accepted", 1, 0.7, 0.65),
        token(" end", "bonus", 1, 0.5, None, in_draft=None),
        token("", "accepted", 2, 0.8, 0.75, piece="</s>"),
    ]
    return {
        "kind": "outlex-generation",
        "schema": 1,
        "prompt": f"Say {EVIL} & more",
        "text": "",
        "target": "models/big",
        "drafter": "small",
        "head": "trimmed-4096",
        "proposal": "tli",
        "draft_len": 4,
        "params": {"temperature": 0.8},
        "seed": 3,
        "stats": {
            "n_tokens": 5,
            "n_passes": 3,
            "n_accepted": 3,
            "n_tested": 4,
            "acceptance_rate": 0.75,
            "block_efficiency": 1.667,
            "tokens_per_s": 12.5,
            "wall_s": 0.4,
        },
        "environment": ENVIRONMENT,
        "tokens": tokens,
    }


def _trim() -> dict[str, Any]:
    rows = [
        {"domain": name, "n_tokens": 50, "coverage": c, "low": c - 0.01, "high": c + 0.01}
        for name, c in (("code", 0.91), ("prose", 0.85))
    ]
    return {
        "base": "small",
        "n_draft": 4096,
        "n_full": 32000,
        "n_must_keep": {"all": 12},
        "coverage": 0.9,
        "domains": rows,
        "reported_domains": [],
        "dropped": [{"id": 5, "text": " rare", "share": 0.001}],
        "dropped_by": "--tokens",
        "size_search": {
            "pareto": [
                {"size": 1000, "coverage": 0.8, "reduction": 0.5},
                {"size": 4096, "coverage": 0.9, "reduction": 0.4},
            ]
        },
    }


def _counts() -> dict[str, Any]:
    domain = {"n_documents": 3, "n_different": 40, "weight": 1.0}
    domains = {"code": {**domain, "n_tokens": 123}, "prose": {**domain, "n_tokens": 456}}
    whole = {"n_entries": 1000, "n_tokens": 579, "n_different": 80, "n_documents": 6}
    return {"tokenizer": "small", **whole, "domains": domains}


BODIES: dict[str, dict[str, Any]] = {
    "pruning": _pruning(),
    "priors": {**_pruning(), "name": "priors"},
    "skewed": _skewed(),
    "scaling": _scaling(),
    "decomposition": _decomposition(),
    "cascade": _cascade(),
    "greedy": _greedy(),
    "bench": _bench(),
    "forecast": _forecast(),
    "fit": _fit(),
    "generation": _generation(),
    "trim": _trim(),
    "counts": _counts(),
}


def body_of(name: str) -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(BODIES[name])


def write(folder: Path, **bodies: Any) -> Path:
    """Write `NAME.json` for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        (folder / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
    return folder
