"""`outlex trace` and `outlex forecast` from the command line, on tiny models that lie on the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_builders import result_of, row
from tiny_models import byte_tokenizer, tiny_pair
from typer.testing import CliRunner, Result

from outlex import SubVocab, trim
from outlex.bench.rows import Row
from outlex.calibration.traces import TraceSet
from outlex.cli.app import app
from outlex.cli.forecast_times import times_of_bench
from outlex.drafters import FittedHead, Shortlists
from outlex.forecast import StepTimes
from outlex.models.output_head import output_head
from outlex.vocab.tokenizer_facts import facts_of


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def json_of(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories target and drafter."""
    root = tmp_path_factory.mktemp("pair")
    for name, model in zip(("target", "drafter"), tiny_pair(), strict=True):
        model.model.save_pretrained(root / name)
        model.tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = ["the river and", "a baker bakes", "who counts the lights?", "on the pier", "in the evening", "bread"]
    lines = [
        {"id": f"p{i}", "domain": "tale" if i % 2 else "song", "prompt": text, "answer": f"{text} run on"}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def trace_arguments(pair: Path, prompts: Path, output: Path) -> list[object]:
    models = ["--target", pair / "target", "--drafter", pair / "drafter", "--dtype", "float32"]
    return ["trace", *models, "--prompts", prompts, "-o", output, "--max-new-tokens", 10]


@pytest.fixture(scope="session")
def traced(pair: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("traces") / "t"
    result = run(*trace_arguments(pair, prompts, output))
    assert result.exit_code == 0, result.stderr
    assert f"--traces {output}" in result.stdout
    return output


@pytest.fixture(scope="session")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counts") / "counts.json"
    path.write_text(json.dumps(list(range(256))), encoding="utf-8")
    return path


def test_trace_reports_what_it_wrote_and_goes_on(traced: Path, pair: Path, prompts: Path, tmp_path: Path) -> None:
    report = json_of(run(*trace_arguments(pair, prompts, traced), "--json"))
    traces = TraceSet.load(traced)
    assert report["n_positions"] == len(traces)
    assert report["n_prompts"] == 6
    assert {name: values["n_prompts"] for name, values in report["domains"].items()} == {"song": 3, "tale": 3}
    two = json_of(run(*trace_arguments(pair, prompts, tmp_path / "t"), "--n-prompts", 2, "--json"))
    assert two["n_prompts"] == 2
    assert set(two["domains"]) == {"song", "tale"}


def test_given_responses_end_as_the_target_ends_them(pair: Path, prompts: Path, tmp_path: Path) -> None:
    arguments = trace_arguments(pair, prompts, tmp_path / "t")
    report = json_of(run(*arguments[:-1], 60, "--responses-field", "answer", "--json"))
    assert report["temperature"] is None
    assert report["n_ended"] == 6
    lines = prompts.read_text(encoding="utf-8").splitlines()
    assert report["n_positions"] == sum(len(json.loads(line)["answer"]) + 1 for line in lines)
    result = run(*trace_arguments(pair, prompts, tmp_path / "u"), "--responses-field", "reply")
    assert result.exit_code == 2
    assert "line 1" in result.stderr
    assert "--responses-field" in result.stderr


def test_forecast_compares_trims(traced: Path, tmp_path: Path) -> None:
    facts = facts_of(byte_tokenizer())
    vocab = SubVocab(
        draft_to_target=torch.arange(90, 150),
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
    )
    trim(tiny_pair()[1], vocab).save(tmp_path / "t")
    arguments = ["forecast", "--traces", traced, "--trimmed", tmp_path / "t", "--draft-len", 2, "--draft-len", 4]
    body = json_of(run(*arguments, "--json"))
    assert {cell["candidate"] for cell in body["cells"]} == {"untrimmed", "trimmed-60"}
    assert {cell["temperature"] for cell in body["cells"]} == {1.0}
    assert {cell["draft_len"] for cell in body["cells"]} == {2, 4}
    assert {cell["domain"] for cell in body["cells"]} == {None, "song", "tale"}
    assert len(body["verdicts"]) == 2
    text = run(*arguments)
    assert text.exit_code == 0
    for needle in ("trimmed-60", "mbsu", "by domain", "bytes of weights"):
        assert needle in text.stdout


def test_forecast_measures_the_parts(traced: Path, counts: Path) -> None:
    arguments = ["forecast", "--traces", traced, "--tokens", counts, "--sizes", "257", "--temperature", "0"]
    body = json_of(run(*arguments, "--measure", "--json"))
    assert all(cell["tokens_per_s"] > 0 for cell in body["cells"])
    assert body["times"]["draft_step_s"].keys() == {"257", "260"}
    assert any("other text" in note for note in body["notes"])


def test_forecast_times_and_replays_a_head_that_follows_the_request(traced: Path, tmp_path: Path) -> None:
    facts = facts_of(byte_tokenizer())
    drafter = tiny_pair()[1]
    FittedHead(
        method="in-context",
        vocab=SubVocab(
            draft_to_target=torch.arange(0, 20),
            n_target=260,
            n_tokenizer=facts.n_entries,
            tokenizer_fingerprint=facts.fingerprint,
        ),
        shortlists=Shortlists(capacity=200),
        base_name=drafter.name,
        base_source=drafter.source,
        base_n_rows=260,
        head_fingerprint=output_head(drafter).fingerprint,
        tokenizer_fingerprint=facts.fingerprint,
    ).save(tmp_path / "h")
    body = json_of(run("forecast", "--traces", traced, "--trimmed", tmp_path / "h", "--measure", "--json"))
    assert body["times"]["head_step_s"].keys() == {"in-context-20"}
    own = next(cell for cell in body["cells"] if cell["candidate"] == "in-context-20")
    assert own["n_draft"] > 20
    assert own["tokens_per_s"] > 0


def test_forecast_takes_the_times_of_a_benchmark(
    traced: Path, pair: Path, prompts: Path, counts: Path, tmp_path: Path
) -> None:
    models = ["--target", pair / "target", "--drafter", pair / "drafter", "--dtype", "float32", "--prompts", prompts]
    bench = ["bench", *models, "--max-new-tokens", 12, "--temperature", 1, "--limit", 2]
    done = run(*bench, "--baselines", "ar,untrimmed", "-o", tmp_path / "r.json")
    assert done.exit_code == 0, done.stderr
    arguments = ["forecast", "--traces", traced, "--bench", tmp_path / "r.json"]
    body = json_of(run(*arguments, "--json"))
    assert body["times"]["draft_step_s"].keys() == {"260"}
    assert body["times"]["head_step_s"].keys() == {"untrimmed"}
    assert body["times"]["target_pass_s"].keys() == {"0", "4"}
    assert body["cells"][0]["expected_speedup"] > 0
    assert run(*bench, "--baselines", "ar", "-o", tmp_path / "ar.json").exit_code == 0
    refused = run("forecast", "--traces", traced, "--bench", tmp_path / "ar.json")
    assert refused.exit_code == 2
    assert "--measure" in refused.stderr


def test_a_benchmarks_seconds_go_where_they_were_spent(tmp_path: Path) -> None:
    """A pass takes 0.3 s and its surroundings 0.1 s; drafts add 0.2 s around a pass, and 0.4 s when sampling."""

    def runs(temperature: float, *, around_s: float) -> list[Row]:
        reading_s = 0.7  # of the prompt, 7 tokens, by both models
        drafts = {
            "n_drafted": 4,
            "n_tested": 3,
            "n_accepted": 2,
            "draft_step_s": 0.05,
            "draft_s": 0.2 + 0.5 * reading_s,
        }
        common: dict[str, Any] = {"n_passes": 2, "target_pass_s": 0.3, "temperature": temperature, "n_prompt": 7}
        target_s = 2 * 0.3 + 0.5 * reading_s
        return [
            row(**common, target_s=target_s, wall_s=target_s + 2 * 0.1),
            row(
                **common,
                **drafts,
                method="untrimmed",
                target_s=target_s,
                wall_s=target_s + 0.2 + 0.5 * reading_s + 2 * (0.1 + around_s),
            ),
        ]

    def times(rows: list[Row]) -> StepTimes:
        result = result_of(rows, draft_len=2)
        methods = tuple(replace(m, n_draft=260 if m.name == "untrimmed" else None) for m in result.methods)
        replace(result, methods=methods).save(tmp_path / "r.json")
        return times_of_bench(tmp_path / "r.json")

    both = times([*runs(0.0, around_s=0.2), *runs(1.0, around_s=0.4)])
    for own, around_s in ((both.at(0.0), 0.2), (both.at(1.0), 0.4)):
        assert own.target_pass_s == pytest.approx({0: 0.4, 2: 0.4})
        assert own.draft_step_s == pytest.approx({260: 0.05 + around_s / 2})
        assert own.head_step_s == pytest.approx({"untrimmed": 0.05 + around_s / 2})
        assert (own.target_prompt_s, own.draft_prompt_s) == pytest.approx((0.05, 0.05))
    greedy = times(runs(0.0, around_s=0.2))
    assert greedy.at(1.0) == both.at(0.0)  # nothing else is known
    # without the target alone, what is around a pass cannot be told apart
    (drafting,) = runs(1.0, around_s=0.4)[1:]
    alone = times([drafting])
    assert alone.target_pass_s == pytest.approx({2: 0.3 + 0.5})
    assert alone.draft_step_s == pytest.approx({260: 0.05})


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["--sizes", "100"], 2, "--tokens"),
        (["--tokens", "{counts}"], 2, "--sizes"),
        (["--tokens", "{counts}", "--sizes", "12,many"], 2, "correct --sizes"),
        (["--tokens", "{counts}", "--sizes", "0"], 2, "choose a --size from"),
        (["--tokens", "{counts}", "--sizes", "99999"], 2, "to 257"),
        (["--tokens", "nowhere.json", "--sizes", "257"], 1, "nowhere.json"),
        (["--tokens", "{traced}", "--sizes", "257"], 2, "trace other prompts"),
        (["--bench", "r.json", "--measure"], 2, "leave one of them out"),
        (["--bench", "nowhere.json"], 1, "run the benchmark again"),
        (["--trimmed", "nowhere"], 1, "outlex trim"),
        (["--temperature", "-1"], 2, "temperature"),
        (["--traces", "nowhere"], 1, "outlex trace"),
    ],
)
def test_options_that_cannot_be_used_are_explained(
    traced: Path, counts: Path, arguments: list[str], code: int, needle: str
) -> None:
    filled = [argument.format(counts=counts, traced=traced) for argument in arguments]
    result = run("forecast", "--traces", traced, *filled)
    assert result.exit_code == code
    assert needle in result.stderr
    assert "Traceback" not in result.stderr


def test_traces_of_a_checkpoint_that_is_gone_or_changed_are_explained(
    pair: Path, prompts: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(pair, tmp_path / "pair")
    output = tmp_path / "t"
    assert run(*trace_arguments(tmp_path / "pair", prompts, output)).exit_code == 0
    weights = tmp_path / "pair" / "drafter" / "model.safetensors"
    tensors = {name: torch.flip(tensor, [0]).contiguous() for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    changed = run("forecast", "--traces", output)
    assert changed.exit_code == 1
    assert "trace the pair again" in changed.stderr
    shutil.rmtree(tmp_path / "pair" / "drafter")
    gone = run("forecast", "--traces", output)
    assert gone.exit_code == 1
    assert "no such model" in gone.stderr


@pytest.mark.parametrize(
    ("change", "code", "needle"),
    [
        (["--prompts", "nowhere.jsonl"], 2, "--prompts"),
        (["--n-prompts", "7"], 2, "ask for fewer"),
        (["--temperature", "-1"], 2, "temperature"),
        (["--drafter", "nowhere"], 1, "no such model"),
        (["--max-new-tokens", "11"], 1, "-o"),
    ],
)
def test_trace_explains_what_it_cannot_use(
    traced: Path, pair: Path, prompts: Path, change: list[str], code: int, needle: str
) -> None:
    before = {path.name: path.read_bytes() for path in traced.iterdir()}
    result = run(*trace_arguments(pair, prompts, traced), *change)
    assert result.exit_code == code
    assert needle in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in traced.iterdir()} == before
