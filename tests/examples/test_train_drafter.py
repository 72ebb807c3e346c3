"""examples/train_drafter: the whole of it once on a tiny random model, and what its parts compute."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from eagle_builders import eagle_module
from tiny_models import tiny_model

from outlex.errors import ArtifactError, InputError

_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_drafter"


@pytest.fixture(autouse=True)
def _example_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_EXAMPLE))


def _module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a directory that `load_model` takes."""
    directory = tmp_path_factory.mktemp("tiny")
    target = tiny_model(n_layers=3, tied=True, sharpness=5.0, max_position_embeddings=600)
    target.model.save_pretrained(directory)
    target.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held") / "held.jsonl"
    texts = ("What is the capital of France?", "Add two and three.", "Say something.", "Say nothing at all.")
    path.write_text("".join(json.dumps({"prompt": text, "domain": "qa"}) + "\n" for text in texts))
    return path


def _generate(tiny_dir: Path, out: Path, *more: str) -> None:
    arguments = ["--target", str(tiny_dir), "--out", str(out), "--n-prompts", "12", "--max-new-tokens", "12"]
    _module("generate").main([*arguments, "--slots", "4", "--max-prompt-tokens", "200", *more])


def _train(tiny_dir: Path, run: Path, out: Path, *more: str) -> None:
    sizes = [
        "--intermediate-size",
        "40",
        "--batch-tokens",
        "512",
        "--hot",
        "100",
        "--measure-every",
        "4",
        "--lr",
        "0.02",
    ]
    paths = ["--target", str(tiny_dir), "--run", str(run), "--out", str(out)]
    _module("train").main([*paths, *sizes, "--layers", "1", "3", "--n-heads", "2", "--head-dim", "48", *more])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _without_clock(log: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in _lines(log)]


@pytest.fixture(scope="module")
def run_dir(tiny_dir: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations and features of the tiny model."""
    run = tmp_path_factory.mktemp("data") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(_EXAMPLE))
        patch.setattr(_module("package_texts"), "PACKAGES", ("typer",))  # the others hold thousands of files
        _generate(tiny_dir, run, "--exclude", str(held_out))
        _module("features").main(["--target", str(tiny_dir), "--run", str(run), "--layers", "1"])
    return run


def test_a_generation_that_goes_on_changes_nothing_and_other_settings_are_refused(
    tiny_dir: Path, held_out: Path, run_dir: Path
) -> None:
    before = {path: path.read_bytes() for path in run_dir.iterdir()}
    _generate(tiny_dir, run_dir, "--exclude", str(held_out))
    assert {path: path.read_bytes() for path in run_dir.iterdir()} == before
    prompts, answers = _lines(run_dir / "prompts-000-00000.jsonl"), _lines(run_dir / "answers-00000.jsonl")
    assert sorted(record["id"] for record in answers) == sorted(prompt["id"] for prompt in prompts)
    assert all(1 <= len(record["answer_ids"]) <= 12 for record in answers)
    with pytest.raises(InputError, match="other settings") as caught:
        _generate(tiny_dir, run_dir, "--exclude", str(held_out), "--seed", "5")
    assert "another --out" in str(caught.value)


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(
    tiny_dir: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = _module("training")
    # the closed-form start knows all about three texts already
    monkeypatch.setattr(training, "first_weights", lambda config, *_, seed: eagle_module(seed, config=config))
    steps = ["--steps", "24", "--measure-every", "12", "--unroll", "1"]
    _train(tiny_dir, run_dir, tmp_path / "whole", *steps)
    make_batch, calls = training.make_batch, iter(range(18))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return make_batch(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _train(tiny_dir, run_dir, tmp_path / "stopped", *steps)
    _train(tiny_dir, run_dir, tmp_path / "stopped", *steps)
    whole = _without_clock(tmp_path / "whole" / "log.jsonl")
    assert [line["step"] for line in whole] == [0, 12, 24]
    assert _without_clock(tmp_path / "stopped" / "log.jsonl") == whole
    assert whole[2]["loss"] < whole[1]["loss"]
    first, second = ((tmp_path / name / "drafter" / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert first == second
    with pytest.raises(InputError, match="other settings") as caught:
        _train(tiny_dir, run_dir, tmp_path / "stopped", *steps, "--lr", "1")
    assert "another --out" in str(caught.value)


def test_a_run_can_begin_with_the_weights_of_another(tiny_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    def weights(name: str) -> bytes:
        return (tmp_path / name / "drafter" / "model.safetensors").read_bytes()

    _train(tiny_dir, run_dir, tmp_path / "first", "--steps", "4")
    more = ["--begin-with", str(tmp_path / "first"), "--steps", "2", "--first-unroll", "2", "--rejection-weight", "0.5"]
    _train(tiny_dir, run_dir, tmp_path / "still", *more, "--lr", "1e-12")
    assert weights("still") == weights("first")
    _train(tiny_dir, run_dir, tmp_path / "second", *more)
    moved, log = weights("second"), _lines(tmp_path / "second" / "log.jsonl")
    assert moved != weights("first")
    # started again it goes on with its own weights
    _train(tiny_dir, run_dir, tmp_path / "second", *more)
    assert (weights("second"), _lines(tmp_path / "second" / "log.jsonl")) == (moved, log)
    for other, problem in ((tmp_path, "no weights"), (tmp_path / "first", "other sizes")):
        with pytest.raises(InputError, match=problem):
            _train(tiny_dir, run_dir, tmp_path / "third", "--begin-with", str(other), "--intermediate-size", "32")


def test_held_out_prompts_are_answered_and_measured(
    tiny_dir: Path, held_out: Path, run_dir: Path, tmp_path: Path
) -> None:
    _train(tiny_dir, run_dir, tmp_path / "out", "--steps", "1")
    _generate(tiny_dir, tmp_path / "held", "--prompts", str(held_out))
    _module("features").main(["--target", str(tiny_dir), "--run", str(tmp_path / "held"), "--layers", "1"])
    drafter, numbers = tmp_path / "out" / "drafter", tmp_path / "numbers.json"
    arguments = ["--target", str(tiny_dir), "--run", str(tmp_path / "held"), "--drafter", str(drafter)]
    _module("evaluate").main([*arguments, "--json", str(numbers)])
    found = json.loads(numbers.read_text())
    assert set(found) == {"qa", "all"}
    assert all(0 <= found["all"][name]["value"] <= 1 for name in found["all"] if not name.endswith("tau"))


def test_missing_features_and_layers_are_named(tiny_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no features") as caught:
        _train(tiny_dir, tmp_path, tmp_path / "out")
    assert "features.py first" in str(caught.value)
    with pytest.raises(ArtifactError, match="lacks layers") as lacking:
        _module("dataset").read_texts(sorted(run_dir.glob("features-*")), layers=(0, 1), width=32)
    assert "--layers" in str(lacking.value)
    with pytest.raises(InputError, match="positive"):
        _train(tiny_dir, run_dir, tmp_path / "out", "--lr", "0")


def test_slots_sample_what_transformers_does_and_neighbours_do_not_matter() -> None:
    slots, target = _module("slots"), tiny_model(n_layers=3, max_position_embeddings=128)
    prompts = [list(range(7, 7 + n)) for n in (3, 17, 40, 5, 9)]
    jobs = [
        slots.Job(name=str(i), prompt_ids=ids, max_new_tokens=20 + i, temperature=0.0, seed=i)
        for i, ids in enumerate(prompts)
    ]
    found = {job.name: ids for job, ids in slots.sample_jobs(target, jobs, n_slots=2)}
    for job in jobs:
        wanted = target.model.generate(
            torch.tensor([job.prompt_ids]),
            attention_mask=torch.ones(1, len(job.prompt_ids)),
            max_new_tokens=job.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        assert found[job.name] == wanted[0, len(job.prompt_ids) :].tolist()
    drawn = [slots.Job(name=j.name, prompt_ids=j.prompt_ids, max_new_tokens=20, temperature=1.0, seed=3) for j in jobs]
    together = {job.name: ids for job, ids in slots.sample_jobs(target, drawn, n_slots=3)}
    alone = {job.name: ids for wanted in drawn for job, ids in slots.sample_jobs(target, [wanted], n_slots=1)}
    assert together == alone
    with pytest.raises(InputError, match="no Llama-like layers"):
        list(slots.sample_jobs(tiny_model(family="phi"), jobs, n_slots=2))


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_the_loss_is_the_obvious_one_when_every_cold_row_is_sampled(weight: float) -> None:
    loss_module, generator = _module("loss"), torch.Generator().manual_seed(0)
    n, n_hot, n_cold, d = 300, 20, 7, 8
    head = torch.randn(n_hot + n_cold, d, generator=generator, dtype=torch.float64)
    laws = torch.randn(n, n_hot + n_cold, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
    states = torch.randn(n, d, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = loss_module.DraftRows(hot=head[:n_hot], cold=head[n_hot:], log_weight=0.0)
    loss = loss_module.draft_loss(states, laws[:, :n_hot], rows, rejection_weight=weight)
    (gradient,) = torch.autograd.grad(loss, states)

    q = (states @ head.T).softmax(-1)
    p = torch.cat([laws[:, :n_hot], laws[:, n_hot:].sum(-1, keepdim=True)], -1)
    lumped = torch.cat([q[:, :n_hot], q[:, n_hot:].sum(-1, keepdim=True)], -1)
    overlap = torch.minimum(p, lumped)[:, :n_hot].sum(-1)
    wanted = (-(1 - weight) * (p * lumped.log()).sum(-1) + weight * (1 - overlap)).mean()
    (wanted_gradient,) = torch.autograd.grad(wanted, states)
    torch.testing.assert_close(loss.double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, wanted_gradient, atol=1e-6, rtol=1e-4)


def test_prompts_that_share_thirteen_words_with_a_held_out_one_are_left_out() -> None:
    held = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    wanted = _module("overlap").PromptFilter([held, "Short question?"])
    assert not wanted.accepts(
        "And then: two, three four five six seven eight nine ten eleven twelve thirteen FOURTEEN!"
    )
    assert wanted.accepts("two three four five six seven eight nine ten eleven twelve thirteen")
    assert not wanted.accepts("short question")
    assert not wanted.accepts("Two three four five six seven eight nine ten eleven twelve thirteen.")
    assert not wanted.accepts("?!")


def test_a_walk_counts_whole_blocks_from_the_first_answered_position() -> None:
    betas = torch.tensor([[0, 1, 1, 0, 1, 1, 1.0], [0, 1, 0, 0, 1, 1, 1]]).unsqueeze(1)
    valid = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0]]).bool().unsqueeze(1)
    # from 1: both accepted, 3 tokens, on to 4: both accepted, on to 7, which is the end
    assert _module("acceptance")._walk(betas, valid, 0) == (6.0, 2.0)
