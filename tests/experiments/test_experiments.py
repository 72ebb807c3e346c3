"""Every experiment on a toy pair: its numbers against the definitions, its record, and what it refuses."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tuning_builders import N, toy_pair

from outlex.errors import InputError, MismatchError
from outlex.experiments import EXPERIMENTS, ExperimentResult, Setup, run_experiment
from outlex.experiments.decomposition import terms
from outlex.experiments.scaling import slope
from outlex.experiments.synthetic import zipf_pair
from outlex.heads.linear import LinearHead
from outlex.metrics import block_efficiency, expected_speedup
from outlex.sampling import SamplingParams, probabilities

ONE = SamplingParams()


def setup(**changes: Any) -> Setup:
    target, drafter, traces = toy_pair()
    given: dict[str, Any] = {"traces": traces, "target_head": target, "drafter_head": drafter, "sizes": (24,)}
    return Setup(**{**given, **changes})


@cache
def result(name: str, family: str = "cold-row") -> ExperimentResult:
    return run_experiment(name, setup(sizes=(48, 16), family=family))


def rows(name: str, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in result(name).rows if all(row[key] == value for key, value in wanted.items())]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_is_recorded_and_printed(name: str, tmp_path: Path) -> None:
    if name == "skewed":
        pytest.skip("tested by itself: it fits synthetic pairs")
    found = result(name)
    path = found.save(tmp_path / "new")
    body = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == f"{name}.json"
    assert (body["kind"], body["name"], body["schema"]) == ("outlex-experiment", name, 1)
    assert body["config"]["sizes"] == [48, 16]
    assert body["config"]["prompts"]["held_out"] == {"prompts": 8, "positions": 96}
    assert body["environment"]["versions"].keys() >= {"outlex", "torch"}
    assert len(body["rows"]) == len(found.rows) > 1
    assert set(found.columns) <= set(found.rows[0])
    assert body["notes"] == list(found.notes)
    from rich.console import Console

    console = Console(width=250, record=True, file=io.StringIO())
    console.print(found.renderable())
    text = console.export_text()
    for needle in (found.question, *found.columns):
        assert needle in text


def test_pruning_says_what_the_laws_say() -> None:
    own = setup(sizes=(48, 16))
    held_out = own.parts[2]
    p = probabilities(own.target_head.logits(held_out.target_hidden), ONE).double()
    logits = own.drafter_head.logits(held_out.drafter_hidden)
    whole = float(torch.minimum(p, probabilities(logits, ONE).double()).sum(-1).mean())
    for size in (48, 16):
        ids = own.order[:size]
        q = torch.zeros_like(p).index_copy_(-1, ids, probabilities(logits[:, ids], ONE).double())
        (tli,) = rows("pruning", n_draft=size, sampler="tli", domain="all")
        assert tli["alpha"][0] == pytest.approx(float(torch.minimum(p, q).sum(-1).mean()), abs=1e-6)
        assert tli["gain"] == [0, 0, 0]
        assert tli["ceiling"] == pytest.approx(float(p[:, ids].sum(-1).mean()), abs=1e-6)
        assert tli["untrimmed"] == pytest.approx(whole, abs=1e-6)
        assert tli["pruned"] == pytest.approx(1 - size / N)
        chosen = rows("pruning", n_draft=size, domain="all", chosen=True)
        assert len(chosen) == 1
    assert {row["domain"] for row in result("pruning").rows} == {"all", "a", "b"}
    # domains of equal numbers of positions average to all of them
    parts = [rows("pruning", n_draft=16, sampler="tli", domain=name)[0]["alpha"][0] for name in "ab"]
    assert sum(parts) / 2 == pytest.approx(rows("pruning", n_draft=16, sampler="tli", domain="all")[0]["alpha"][0])


def test_the_terms_of_the_decomposition_add_up_to_the_gain() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q, law = (torch.randn(50, 9, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(3))
    is_hot = torch.arange(9) < 4
    q = q * is_hot
    q = q / q.sum(-1, keepdim=True)
    cold, lost, moved = terms(p, q, law, is_hot)
    gain = torch.minimum(p, law).sum(-1) - torch.minimum(p, q).sum(-1)
    torch.testing.assert_close(cold - lost, gain, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved, law[:, 4:].sum(-1))
    # TLI against itself: nothing gained, nothing lost
    assert terms(p, q, q, is_hot).abs().max() == 0
    for row in result("decomposition").rows:
        assert row["gain"][0] == pytest.approx(row["gain on cold"][0] - row["bonus lost"][0], abs=1e-9)
        assert row["gain on cold"][0] >= 0
    (vanilla,) = rows("decomposition", n_draft=16, sampler="vanilla", positions="all")
    assert vanilla["gain on cold"][0] == vanilla["moved"] == 0
    assert vanilla["bonus lost"][0] > 0


def test_decomposition_and_pruning_agree() -> None:
    for row in rows("decomposition", positions="all", sampler="cold-row, 2nd order"):
        (other,) = rows("pruning", n_draft=row["n_draft"], domain="all", sampler=row["sampler"])
        assert row["gain"][0] == pytest.approx(other["gain"][0], abs=1e-6)
    (oracle,) = rows("decomposition", n_draft=16, sampler="true cold mass, drafter's law", positions="all")
    (tli,) = rows("pruning", n_draft=16, sampler="tli", domain="all")
    assert oracle["gain"][0] == pytest.approx(tli["untrimmed"] - tli["alpha"][0], abs=1e-6)


def test_priors_name_every_prior() -> None:
    names = {row["sampler"].split(" + ")[0] for row in rows("priors", domain="all")}
    assert names >= {"tli", "cold mass, uniform", "cold mass, unigram", "sparse-kernel, head-cosine"}
    assert not any("string-prefix" in name for name in names)  # no spellings were given


def test_a_cascade_costs_what_its_blocks_cost() -> None:
    header = toy_pair()[2].header
    body, whole = header.drafter.body_bytes, header.drafter.head_bytes
    target = header.target.body_bytes + header.target.head_bytes
    for row in result("cascade").rows:
        small = whole * row["n_draft"] / N
        costs = [
            (g * (body + small) + body + whole) / block_efficiency(row["trimmed→whole"][0], g) for g in (1, 2, 3, 4)
        ]
        assert row["bytes"] == pytest.approx(min(costs) / (body + whole))
        assert row["inner γ"] == costs.index(min(costs)) + 1
        tau = block_efficiency(row["whole→target"][0], row["γ"])
        assert row["mbsu cascade"] == pytest.approx(expected_speedup(tau, row["γ"], min(costs) / target))
    (pruned, *_) = rows("pruning", n_draft=16, sampler="tli", domain="all")
    row = next(row for row in result("cascade").rows if row["n_draft"] == 16)
    assert row["whole→target"][0] == pytest.approx(pruned["untrimmed"], abs=1e-6)
    assert row["trimmed→target"][0] == pytest.approx(pruned["alpha"][0], abs=1e-6)


def test_greedy_drafts_are_the_arg_max() -> None:
    own = setup(sizes=(48, 16))
    held_out, ids = own.parts[2], own.order[:16]
    p = probabilities(own.target_head.logits(held_out.target_hidden), ONE)
    best = ids[own.drafter_head.logits(held_out.drafter_hidden)[:, ids].argmax(-1)]
    row = next(row for row in result("greedy").rows if (row["n_draft"], row["sampler"]) == (16, "tli"))
    assert row["alpha"][0] == pytest.approx(float(p.gather(-1, best.unsqueeze(-1)).mean()), abs=1e-6)
    assert row["greedy target"][0] == pytest.approx(float((p.argmax(-1) == best).float().mean()), abs=1e-6)
    assert row["arg-max moved"] == 0


def test_scaling_grows_and_measures_both() -> None:
    found = run_experiment("scaling", _wide_setup())
    widths = sorted({row["N"] for row in found.rows})
    assert widths == [1024, 1500]
    quality = [row for row in found.rows if row["part"] == "quality"]
    for row in quality:
        assert 0 <= row["alpha"] <= 1
        assert row["step_s"] > 0
        assert 0 <= row["distance"] <= 1
    exact = {(row["N"], row["T_Ω"]): row["distance"] for row in quality}
    assert all(exact[n, 1e-2] < exact[n, 1e-4] for n in widths)  # the first order is exact as T grows
    steps = {row["sampler"]: row for row in found.rows if row["part"] == "step times"}
    assert {"whole head", "tli", "sparse-kernel, learned", "clusters + tli", "rdk-first-order"} <= set(steps)
    assert steps["whole head"]["of head"] == 1
    assert {(row["N"], row["n_draft"]) for name, row in steps.items() if name != "whole head"} == {(1500, 1024)}
    assert sum("of the whole head" in note for note in found.notes) == len(steps)
    made = [{"N": 10**k, "sampler": "x", "step_s": 3.0 * 10 ** (2 * k)} for k in range(3)]
    assert slope(made, "x") == pytest.approx(2)
    assert slope(made, "x", at_least=2) == pytest.approx(2)
    assert math.isnan(slope(made[:1], "x"))


def _wide_setup() -> Setup:
    target, drafter, traces = zipf_pair(n=1500, exponent=1.0, seed=1)
    return Setup(traces=traces, target_head=target, drafter_head=drafter, sizes=(100,))


def test_synthetic_laws_fall_with_the_rank() -> None:
    slopes = []
    for exponent in (0.0, 0.5, 1.0, 1.5):
        target, drafter, traces = zipf_pair(n=400, exponent=exponent, seed=0)
        mean = target.logits(traces.target_hidden).softmax(-1).mean(0)
        x, y = torch.arange(1, 401).double().log(), mean.double().log()
        slopes.append(float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()))
        traces.check_heads(target, drafter)
    # the states flatten it a little
    assert slopes == pytest.approx([0.0, -0.5, -1.0, -1.5], abs=0.3)
    assert slopes == sorted(slopes, reverse=True)


def test_skewed_settings_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from outlex.experiments import skewed

    monkeypatch.setattr(skewed, "_N_ZIPF", 300)
    monkeypatch.setattr(skewed, "_HOT_ZIPF", 30)
    monkeypatch.setattr(skewed, "_EXPONENTS", (0.5, 1.5))
    found = run_experiment("skewed", setup(sizes=(24,), family="cold-row"))
    settings = {row["setting"] for row in found.rows}
    assert settings == {
        *("rare text", "foreign: calibrated on a", "foreign: calibrated on b"),
        *("Zipf, exponent 0.5", "Zipf, exponent 1.5"),
    }
    tli = {row["setting"]: row["alpha"][0] for row in found.rows if row["sampler"] == "tli"}
    assert tli["Zipf, exponent 0.5"] < tli["Zipf, exponent 1.5"]


def test_what_cannot_be_run_is_refused_with_a_remedy() -> None:
    target, drafter, traces = toy_pair()
    with pytest.raises(InputError, match="name one of them"):
        run_experiment("rdk", setup())
    for sizes in ((), (0,), (N,), (5, 5)):
        with pytest.raises(InputError, match="--sizes"):
            setup(sizes=sizes)
    with pytest.raises(InputError, match="greedy"):
        setup(temperature=0.0)
    with pytest.raises(InputError, match="auto fits and compares"):
        setup(family="rdk")
    with pytest.raises(InputError, match="trace more prompts"):
        run_experiment("pruning", setup(traces=traces.select(range(5))))
    with pytest.raises(MismatchError, match="target"):
        setup(target_head=replace(drafter, weight=drafter.weight + 1))
    assert isinstance(target, LinearHead)
