from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_builders import FakeClock, FakeMethod, tiny_trimmed
from tiny_models import tiny_pair

from outlex.bench import BenchConfig, BenchResult, run_bench
from outlex.bench import run as run_module
from outlex.bench.loaded import BenchModels
from outlex.bench.rows import Row
from outlex.bench.table import markdown
from outlex.bench.workload import PromptRecord
from outlex.errors import ArtifactError, InputError, NumericalError

PROMPTS = [(PromptRecord(id=name, domain="d", text=name), [1] * n) for n, name in enumerate("xyz", start=1)]


def config(**changes: Any) -> BenchConfig:
    return BenchConfig(**{"target": "t", "prompts": "p", "baselines": ("ar",), "max_new_tokens": 12, **changes})


def measured(methods: list[FakeMethod], clock: FakeClock, **changes: Any) -> list[list[Row]]:
    said: list[tuple[int, int, str]] = []
    rows = list(
        run_module.measure(
            config(**changes),
            methods=methods,
            prompts=PROMPTS,
            now=clock,
            on_progress=lambda *args: said.append(args),
        )
    )
    n_total = said[-1][1]
    assert [n_done for n_done, _, _ in said] == list(range(n_total + 1))
    assert {total for _, total, _ in said} == {n_total}
    return rows


def test_methods_take_turns_and_another_one_goes_first_each_time() -> None:
    clock, calls = FakeClock(), []  # type: ignore[var-annotated]
    methods = [FakeMethod(name, clock, calls=calls) for name in "abc"]
    by_prompt = measured(methods, clock, temperatures=(0.0, 0.7), repeats=2, seed=10)
    warm_up, runs = calls[:3], calls[3:]
    assert [(name, n_new) for name, _, _, n_new, _ in warm_up] == [("a", 8), ("b", 8), ("c", 8)]
    assert ["".join(name for name, *_ in runs[i : i + 3]) for i in range(0, 36, 3)] == [
        "abc",
        "bca",
        "cab",
    ] * 4
    assert [len(rows) for rows in by_prompt] == [12, 12, 12]
    rows = [row for of_prompt in by_prompt for row in of_prompt]
    # rows stand in the order of the runs and say what was run
    assert [(r.method, r.n_prompt, r.temperature, r.n_tokens, r.seed) for r in rows] == runs
    assert [(r.prompt_id, r.temperature, r.repeat) for r in rows[::3]] == [
        (prompt, temperature, repeat) for prompt in "xyz" for temperature in (0.0, 0.7) for repeat in (0, 1)
    ]
    assert [r.order for r in rows] == [0, 1, 2] * 12
    # methods share a run's seed; prompts and repeats do not
    assert len({r.seed for r in rows}) == 6
    assert rows[0].seed == 10


def test_a_short_benchmark_warms_up_no_longer_than_it_runs() -> None:
    clock, calls = FakeClock(), []  # type: ignore[var-annotated]
    measured([FakeMethod("a", clock, calls=calls)], clock, max_new_tokens=3)
    assert {n_new for _, _, _, n_new, _ in calls} == {3}


def test_the_wall_is_the_whole_call_without_the_pauses() -> None:
    clock = FakeClock()
    methods = [FakeMethod("a", clock, wall_s=2.0, paused_s=0.5), FakeMethod("b", clock, wall_s=3.0)]
    rows = [row for of_prompt in measured(methods, clock) for row in of_prompt]
    assert {(r.method, r.wall_s, r.paused_s) for r in rows} == {("a", 2.0, 0.5), ("b", 3.0, 0.0)}


def prompts_file(folder: Path, n: int = 3) -> Path:
    path = folder / "prompts.jsonl"
    lines = [{"id": f"p{i}", "domain": "ab"[i % 2], "prompt": f"prompt number {i}"} for i in range(n)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def tiny_models() -> BenchModels:
    target, drafter = tiny_pair()
    return BenchModels(target=target, drafter=drafter, trimmed=(tiny_trimmed(40),))


def real_config(folder: Path, **changes: Any) -> BenchConfig:
    values = {
        "target": "/home/someone/tiny-target",
        "drafter": "tiny-drafter",
        "trimmed": ("dir",),
        "prompts": prompts_file(folder),
        "max_new_tokens": 10,
        "baselines": ("ar", "untrimmed", "transformers"),
        "output": folder / "out" / "result.json",
    }
    return BenchConfig(**{**values, **changes})


def test_a_whole_benchmark_with_its_file(tmp_path: Path) -> None:
    made = real_config(tmp_path)
    result = run_bench(made, models=tiny_models())
    assert made.output is not None
    assert BenchResult.load(made.output) == result
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]
    assert result.complete
    assert len(result.rows) == 3 * 2 * 4
    assert [info.name for info in result.methods] == ["ar", "untrimmed", "transformers", "trimmed-40"]
    told = (tmp_path / "out" / "result.json").read_text()
    assert "someone" not in told
    assert str(tmp_path) not in told
    for row in result.rows:
        assert 1 <= row.n_tokens <= 10
        assert row.wall_s > 0
        if row.method == "transformers":
            assert row.draft_s is None
        else:
            assert row.draft_s is not None
            assert row.target_s is not None
            assert row.draft_s + row.target_s <= row.wall_s
            assert row.n_tested is not None
            assert (row.n_tested > 0) == (row.method != "ar")
    greedy = [s for s in result.summary if s.temperature == 0]
    assert [s.n_same_as_ar for s in greedy] == [3, 3, 3, 3]
    assert json.loads(told)["summary"][0]["method"] == "ar"


def test_requests_in_batches_are_accepted_like_single_ones(tmp_path: Path) -> None:
    (tmp_path / "five").mkdir()
    changes: dict[str, Any] = {
        "prompts": prompts_file(tmp_path / "five", 5),
        "baselines": ("ar", "untrimmed"),
        "repeats": 2,
        "output": None,
    }
    alone = run_bench(real_config(tmp_path, **changes), models=tiny_models())
    batched = run_bench(real_config(tmp_path, **changes, batch_size=3), models=tiny_models())
    counts = ("token_ids", "n_passes", "n_drafted", "n_accepted", "n_tested", "seed", "n_prompt", "domain")

    def by_run(result: BenchResult) -> dict[Any, Any]:
        return {
            (row.method, row.temperature, row.prompt_id, row.repeat): {name: getattr(row, name) for name in counts}
            for row in result.rows
        }

    assert by_run(batched) == by_run(alone)
    assert all(row.wall_s > 0 and row.draft_s is None for row in batched.rows)
    # shares of a batch's seconds, the last batch has two requests
    assert {len(own) for own in _same_seconds(batched)} == {3, 2}
    table = markdown(batched)
    assert "Up to 3 requests shared each forward pass" in table
    assert "| method | α, mean β | α, counted | τ |" in table
    assert "faster" not in table
    assert "slower" not in table
    assert "trimmed-40 against untrimmed: " in table


def _same_seconds(result: BenchResult) -> list[list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in result.rows:
        groups.setdefault((row.method, row.temperature, row.repeat, row.wall_s), []).append(row)
    return list(groups.values())


def test_greedy_beta_is_the_count(tmp_path: Path) -> None:
    result = run_bench(real_config(tmp_path, temperatures=(0.0,), output=None), models=tiny_models())
    for row in result.rows:
        assert row.sum_beta is None or row.sum_beta == row.n_accepted


def test_an_error_of_a_method_comes_through_and_finished_prompts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()

    def fail_at_the_third(prompt_ids: list[int]) -> None:
        if prompt_ids == tiny_pair()[0].encode_chat([{"role": "user", "content": "prompt number 2"}]):
            raise NumericalError("The target's logits hold NaN")

    methods = [FakeMethod("a", clock), FakeMethod("b", clock, before=fail_at_the_third)]
    monkeypatch.setattr(run_module, "build_methods", lambda *args, **kwargs: methods)
    made = real_config(tmp_path)
    with pytest.raises(NumericalError, match="hold NaN"):
        run_bench(made, models=tiny_models())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json.partial"]
    kept = BenchResult.load(tmp_path / "out" / "result.json.partial")
    assert not kept.complete
    assert [(row.prompt_id, row.method) for row in kept.rows[::4]] == [("p0", "a"), ("p1", "a")]
    assert len(kept.rows) == 2 * 2 * 2


def test_an_error_before_the_first_row_leaves_no_file(tmp_path: Path) -> None:
    made = real_config(tmp_path, max_new_tokens=300)
    with pytest.raises(InputError, match=r"'p0' leaves no room for 300 new tokens[\s\S]*lower --max-new-tokens"):
        run_bench(made, models=tiny_models())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["a folder", "below a file"])
def test_an_output_that_cannot_be_written_is_found_before_models_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("models were loaded")

    monkeypatch.setattr(run_module, "load_models", load)
    (tmp_path / "file").write_text("")
    output = tmp_path if kind == "a folder" else tmp_path / "file" / "x.json"
    with pytest.raises(ArtifactError, match=r"cannot be written[\s\S]*choose another file with -o"):
        run_bench(real_config(tmp_path, output=output))


def test_an_old_result_is_whole_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = real_config(tmp_path)
    assert made.output is not None
    old = run_bench(made, models=tiny_models())
    clock = FakeClock()

    def interrupt(prompt_ids: list[int]) -> None:
        del prompt_ids
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "build_methods", lambda *a, **k: [FakeMethod("a", clock, before=interrupt)])
    with pytest.raises(KeyboardInterrupt):
        run_bench(made, models=tiny_models())
    assert BenchResult.load(made.output) == old
