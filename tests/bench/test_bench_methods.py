from __future__ import annotations

from typing import Any

import pytest
import torch
from bench_builders import tiny_trimmed
from tiny_models import tiny_model, tiny_pair

from outlex.bench import BenchConfig
from outlex.bench.config import BASELINES
from outlex.bench.methods import Method, build_methods, run_of
from outlex.bench.transformers_baseline import ALONE, TransformersMethod
from outlex.decode.block import Block
from outlex.decode.generation import Generation, Step
from outlex.decode.stopwatch import TimeSplit
from outlex.errors import InputError
from outlex.sampling import SamplingParams

PROMPTS = ([65, 66, 67], list(range(30, 60)), [200] * 9)
GREEDY = SamplingParams(temperature=0.0)


def methods_of(**changes: Any) -> dict[str, Method]:
    target, drafter = tiny_pair()
    config = BenchConfig(
        **{
            "target": "t",
            "drafter": "d",
            "prompts": "p",
            "trimmed": ("d40",),
            "baselines": BASELINES,
            **changes,
        }
    )
    made = build_methods(config, target=target, drafter=drafter, trimmed=(tiny_trimmed(40),))
    return {method.info.name: method for method in made}


def test_every_method_gives_the_same_greedy_tokens() -> None:
    methods = methods_of(ignore_stop_ids=True)
    assert list(methods) == [*BASELINES, "trimmed-40"]
    for prompt in PROMPTS:
        runs = {name: m.run(prompt, GREEDY, max_new_tokens=25, seed=0) for name, m in methods.items()}
        assert len(set(runs["ar"].token_ids)) > 3  # not one token over and over, which would prove little
        for name, run in runs.items():
            assert run.token_ids == runs["ar"].token_ids, name
            assert run.n_tokens == 25


def test_measuring_beta_is_booked_as_a_pause() -> None:
    methods = methods_of(ignore_stop_ids=True)
    runs = {name: m.run(PROMPTS[0], GREEDY, max_new_tokens=8, seed=0) for name, m in methods.items()}
    assert runs["untrimmed"].paused_s > 0
    assert runs["transformers"].paused_s == 0


def test_transformers_drafts_as_many_tokens_as_we_do() -> None:
    methods = methods_of(ignore_stop_ids=True, draft_len=3)
    for prompt in PROMPTS:
        ours = methods["untrimmed"].run(prompt, GREEDY, max_new_tokens=25, seed=0)
        theirs = methods["transformers"].run(prompt, GREEDY, max_new_tokens=25, seed=0)
        # the same drafts, tested the same way, in the same number of target passes
        assert theirs.n_passes == ours.n_passes
        assert ours.n_passes is not None
        assert ours.n_passes < 25
        assert methods["transformers-ar"].run(prompt, GREEDY, max_new_tokens=25, seed=0).n_passes == 25


def test_every_method_stops_at_the_same_token_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_pair()[0]
    free = methods_of(ignore_stop_ids=True)["ar"].run(PROMPTS[1], GREEDY, max_new_tokens=25, seed=0).token_ids
    stop = free[9]
    expected = free[: free.index(stop) + 1]
    monkeypatch.setattr(target.model.generation_config, "eos_token_id", [stop])
    for name, method in methods_of().items():
        run = method.run(PROMPTS[1], GREEDY, max_new_tokens=25, seed=0)
        assert run.token_ids == expected, name


@pytest.mark.parametrize("name", [*BASELINES, "trimmed-40"])
def test_sampling_follows_the_seed_and_leaves_the_global_generator_alone(name: str) -> None:
    method = methods_of(ignore_stop_ids=True)[name]
    before = torch.random.get_rng_state()
    runs = [method.run(PROMPTS[0], SamplingParams(), max_new_tokens=20, seed=seed) for seed in (3, 3, 4)]
    assert runs[0].token_ids == runs[1].token_ids
    assert runs[0].token_ids != runs[2].token_ids
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", [*ALONE, "transformers"])
def test_the_checkpoints_generation_configs_do_not_filter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, drafter = tiny_pair()
    method = methods_of(ignore_stop_ids=True)[name]
    params = SamplingParams(temperature=1.5)
    free = method.run(PROMPTS[0], params, max_new_tokens=20, seed=3)
    for model in (target.model, drafter.model):
        for key, value in {
            "top_k": 1,
            "repetition_penalty": 5.0,
            "min_p": 0.9,
            "num_assistant_tokens": 9,
        }.items():
            monkeypatch.setattr(model.generation_config, key, value)
    configs = [target.model.generation_config, drafter.model.generation_config]
    assert method.run(PROMPTS[0], params, max_new_tokens=20, seed=3) == free
    # and they are back in place
    assert [target.model.generation_config, drafter.model.generation_config] == configs
    assert target.model.generation_config is configs[0]
    assert drafter.model.generation_config is configs[1]


@pytest.mark.parametrize("name", [*ALONE, "transformers"])
def test_the_filters_of_the_benchmark_reach_transformers(name: str) -> None:
    method = methods_of(ignore_stop_ids=True)[name]
    greedy = method.run(PROMPTS[1], GREEDY, max_new_tokens=20, seed=0).token_ids
    for params in (SamplingParams(top_k=1), SamplingParams(top_p=1e-6), SamplingParams(min_p=0.999)):
        assert method.run(PROMPTS[1], params, max_new_tokens=20, seed=0).token_ids == greedy
    assert method.run(PROMPTS[1], SamplingParams(temperature=2.0), max_new_tokens=20, seed=0).token_ids != greedy


def test_the_sampled_first_token_of_transformers_has_the_targets_law() -> None:
    target, drafter = tiny_pair()
    method = TransformersMethod(target, drafter, draft_len=2, stop_ids=frozenset({3}), name="transformers")
    n, params = 300, SamplingParams(temperature=0.4)
    law = (target.model(torch.tensor([PROMPTS[0]])).logits[0, -1].double() / 0.4).softmax(-1)
    hottest = int(law.argmax())
    p = float(law[hottest])
    assert 0.2 < p < 0.8
    drawn = [method.run(PROMPTS[0], params, max_new_tokens=2, seed=seed).token_ids[0] for seed in range(n)]
    # four standard errors, for seeds that are fixed anyway
    assert abs(drawn.count(hottest) / n - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_an_error_of_generate_comes_through_and_the_configs_are_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, drafter = tiny_pair()
    configs = target.model.generation_config, drafter.model.generation_config

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(target.model, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        methods_of()["transformers"].run(PROMPTS[0], GREEDY, max_new_tokens=5, seed=0)
    assert target.model.generation_config is configs[0]
    assert drafter.model.generation_config is configs[1]


def test_transformers_refuses_heads_of_two_widths() -> None:
    target = tiny_pair()[0]
    wide = tiny_model(name="wide", seed=2, n_rows=300)
    with pytest.raises(InputError, match=r"260 rows[\s\S]*300 rows[\s\S]*leave transformers out of --baselines"):
        TransformersMethod(target, wide, draft_len=4, stop_ids=frozenset(), name="transformers")


def test_artifacts_of_one_size_get_distinct_names_and_sizes_are_told() -> None:
    target, drafter = tiny_pair()
    config = BenchConfig(target="t", drafter="d", prompts="p", trimmed=("a", "b", "c"), baselines=())
    heads = (tiny_trimmed(40), tiny_trimmed(64), tiny_trimmed(40))
    infos = [m.info for m in build_methods(config, target=target, drafter=drafter, trimmed=heads)]
    assert [info.name for info in infos] == ["trimmed-40#1", "trimmed-64", "trimmed-40#2"]
    assert [info.n_draft for info in infos] == [40, 64, 40]
    assert infos[0].vocab_fingerprint == tiny_trimmed(40).vocab.fingerprint
    assert infos[0].draft_bytes is not None
    assert infos[1].draft_bytes is not None
    assert infos[1].draft_bytes - infos[0].draft_bytes == 24 * 32 * 4


def test_methods_share_the_models() -> None:
    target, drafter = tiny_pair()
    pointers = {p.data_ptr() for model in (target.model, drafter.model) for p in model.parameters()}
    methods = methods_of()
    for name in ("ar", "untrimmed"):
        decoder: Any = vars(methods[name])["_decoder"]
        assert decoder.target.head.weight.data_ptr() in pointers
        assert decoder.drafter is None or decoder.drafter.head.linear.weight.data_ptr() in pointers


def step(token_ids: tuple[int, ...], kind: str, n_drafts: int, betas: tuple[float, ...], time: TimeSplit) -> Step:
    n_accepted = len(token_ids) - (kind != "accepted")
    block = Block(token_ids=token_ids, kind=kind, draft_ids=(5,) * n_drafts, n_accepted=n_accepted, overlaps=betas)
    return Step(text="", block=block, time=time, finish_reason=None)


def split(draft_s: float, target_s: float) -> TimeSplit:
    return TimeSplit(draft_s=draft_s, head_s=draft_s / 4, target_s=target_s, other_s=0.25, paused_s=0.5)


def test_counts_by_hand() -> None:
    steps = (
        step((5, 9), "recovered", 4, (0.5, 0.25), split(100.0, 50.0)),  # reads the prompt: left out of the medians
        step((5, 5, 5, 5, 9), "bonus", 4, (1.0, 1.0, 0.75, 1.0), split(8.0, 3.0)),
        step((9,), "recovered", 2, (0.125,), split(2.0, 5.0)),
        step((5, 5), "accepted", 2, (1.0, 1.0), split(12.0, 7.0)),  # cut by a stop token: it drafted 4, not 2
    )
    generation = Generation(text="", token_ids=(0,) * 10, finish_reason="stop", n_prompt=3, steps=steps)
    run = run_of(generation)
    assert run.n_tokens == 10
    assert run.n_passes == 4
    assert run.n_drafted == 12
    assert run.n_accepted == 1 + 4 + 0 + 2
    assert run.n_tested == 2 + 4 + 1 + 2
    assert run.sum_beta == pytest.approx(0.75 + 3.75 + 0.125 + 2.0)
    assert (run.draft_s, run.head_s, run.target_s, run.paused_s) == (122.0, 30.5, 65.0, 2.0)
    assert run.draft_step_s == 1.5  # median of 8/4 and 2/2
    assert run.target_pass_s == 5.0  # median of 3, 5 and 7


def test_one_block_has_no_steady_state() -> None:
    generation = Generation(
        text="",
        token_ids=(9,),
        finish_reason="length",
        n_prompt=3,
        steps=(step((9,), "bonus", 0, (), split(0.0, 1.0)),),
    )
    run = run_of(generation)
    assert run.draft_step_s is None
    assert run.target_pass_s is None
