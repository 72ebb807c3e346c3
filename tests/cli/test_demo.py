"""The demo, with a tiny pair: what it leaves behind, how it keeps to its time, and its command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from cli_builders import json_of, run
from eagle_builders import tiny_eagle

import outlex.demo
from outlex.bench import BenchResult
from outlex.bench.workload import read_prompts
from outlex.calibration.traces import TraceSet
from outlex.demo import PAIRS, DemoConfig, DemoResult, run_demo
from outlex.demo.config import SHIPPED
from outlex.demo.prompts import PROMPTS
from outlex.demo.ranking import docstrings, prior_ranking
from outlex.drafters import TrimmedDrafter, load_draft_head
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.formats.eagle_checkpoint import read_eagle, save_eagle
from outlex.models import load_model
from outlex.models.catalogue import CATALOGUE
from outlex.vocab.ranking import read_ranking
from outlex.vocab.tokenizer_facts import facts_of


def config_for(models: Path, cache_dir: Path, *, drafter: str = "drafter", **changes: object) -> DemoConfig:
    values: dict[str, object] = {
        "target": str(models / "target"),
        "drafter": str(models / drafter),
        "size": 290,
        "max_new_tokens": 6,
        "baselines": ("ar", "untrimmed", "transformers"),
        "dtype": "float32",
        "cache_dir": str(cache_dir),
        "budget_s": 1e-9,
    }
    return DemoConfig(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def short_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some texts in place of the standard library, which takes seconds to read."""

    def texts() -> Iterator[str]:
        yield "the river and the mill"

    monkeypatch.setattr("outlex.demo.ranking.docstrings", texts)


def demo_of(config: DemoConfig) -> tuple[DemoResult, list[str], list[tuple[float, float, str]]]:
    notes: list[str] = []
    news: list[tuple[float, float, str]] = []
    result = run_demo(config, on_note=notes.append, on_elapsed=lambda *what: news.append(what))
    return result, notes, news


def test_one_prompt_is_always_finished_by_every_method(models: Path, tmp_path: Path) -> None:
    result, notes, news = demo_of(config_for(models, tmp_path))
    runs = {(row.prompt_id, row.temperature, row.method) for row in result.bench.rows}
    methods = ("ar", "untrimmed", "transformers", "trimmed-290")
    assert runs == {("demo-1", t, method) for t in (0.0, 1.0) for method in methods}
    greedy = {row.token_ids for row in result.bench.rows if row.temperature == 0}
    assert len(greedy) == 1
    assert result.bench.complete
    assert 0 <= result.coverage <= 1
    assert set(result.seconds) == {"models", "heads", "decoding"}
    assert any("target" in note for note in notes)
    assert any("trimmed-290" in label for _, _, label in news)


def test_prompts_are_added_while_there_is_time(models: Path, tmp_path: Path) -> None:
    result, _, news = demo_of(config_for(models, tmp_path, budget_s=600.0, temperatures=(0.0,)))
    assert {row.prompt_id for row in result.bench.rows} == {f"demo-{n}" for n in range(1, len(PROMPTS) + 1)}
    assert [elapsed for elapsed, _, _ in news] == sorted(elapsed for elapsed, _, _ in news)
    assert {budget for _, budget, _ in news} == {600.0}


def test_what_it_leaves_can_be_used_by_the_commands(models: Path, tmp_path: Path) -> None:
    result, _, _ = demo_of(config_for(models, tmp_path))
    assert tmp_path in result.trimmed.parents
    assert TrimmedDrafter.load(result.trimmed).vocab.n_draft == result.n_draft == 290
    assert len(read_prompts(result.prompts)) == len(PROMPTS)
    assert BenchResult.load(result.result).rows == result.bench.rows
    ranking = read_ranking(result.ranking, n_tokenizer=320)
    assert sorted(ranking.ids.tolist()) == list(range(320))
    again, _, _ = demo_of(config_for(models, tmp_path))  # a second run replaces what the first one left
    assert again.trimmed == result.trimmed


def texts_for(models: Path, path: Path) -> Path:
    """Texts to fit a head to, as the demo brings them along."""
    target = load_model(models / "target", progress=False)
    lines = [
        {"id": str(n), "domain": "a", "prompt_ids": target.encode("the river"), "answer_ids": target.encode(text)}
        for n, text in enumerate(["a mill by the river grinds flour", "a baker bakes bread in the mill"])
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def traces_of(result: DemoResult) -> list[Path]:
    """All that demos of this target and drafter have left."""
    return sorted(result.trimmed.parent.glob("traces-*"))


def test_a_head_is_fitted_to_an_eagle_drafter(models: Path, tmp_path: Path) -> None:
    target = load_model(models / "target", dtype="float32", progress=False)
    save_eagle(tmp_path / "eagle", tiny_eagle(target))
    config = replace(
        config_for(models, tmp_path, size=310, max_new_tokens=12),
        drafter=str(tmp_path / "eagle"),
        calibration=texts_for(models, tmp_path / "texts.jsonl"),
        head_method="in-context",
        head_budget=0.99,
        baselines=("ar", "untrimmed"),
    )
    result, notes, _ = demo_of(config)
    assert result.fitted is not None
    fitted, n_rows = load_draft_head(result.fitted), target.n_rows
    assert fitted.base_n_rows == n_rows
    assert {row.method for row in result.bench.rows} == {"ar", "untrimmed", "trimmed-310", fitted.name}
    assert len({row.token_ids for row in result.bench.rows if row.temperature == 0}) == 1
    assert result.decoder.drafter is not None
    assert result.decoder.drafter.head.name == fitted.name
    assert read_ranking(result.ranking, n_tokenizer=320).ids.numel() == 320  # the static list is not the texts'
    seen = traces_of(result)
    assert [TraceSet.load(place).header.drafter.source for place in seen] == [str(tmp_path / "eagle")]
    assert any("to fit a head" in note for note in notes)
    # another network sees other states: the traces of the first one are not taken for its own
    save_eagle(tmp_path / "other" / "eagle", tiny_eagle(target, seed=1))
    again, _, _ = demo_of(replace(config, drafter=str(tmp_path / "other" / "eagle")))
    assert len(traces_of(again)) == len(seen) + 1
    # the same network in another place, as in another installation, and in another dtype
    save_eagle(tmp_path / "moved" / "eagle", tiny_eagle(target))
    for n, changes in enumerate(({"drafter": str(tmp_path / "moved" / "eagle")}, {"dtype": "float64"}), 3):
        other, _, _ = demo_of(replace(config, **changes))  # type: ignore[arg-type]
        assert len(traces_of(other)) == n


@pytest.mark.parametrize("text", ["", "no json", '{"id": "a"}', "[1, 2]"])
def test_damaged_texts_are_refused(models: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "texts.jsonl").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"texts\.jsonl[\s\S]*install outlex again"):
        demo_of(config_for(models, tmp_path, calibration=tmp_path / "texts.jsonl"))


def test_a_pair_of_two_tokenizers_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="same tokenizer"):
        demo_of(config_for(models, tmp_path, drafter="german"))


@pytest.mark.parametrize("size", [1, 321])
def test_sizes_out_of_range_are_refused(models: Path, tmp_path: Path, size: int) -> None:
    with pytest.raises(InputError, match="choose a --size"):
        demo_of(config_for(models, tmp_path, size=size))


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan")])
def test_a_budget_must_be_positive(tmp_path: Path, budget_s: float) -> None:
    with pytest.raises(InputError, match="--budget-s"):
        config_for(tmp_path, tmp_path, budget_s=budget_s)


def test_a_budget_of_nothing_is_refused_before_anything_is_loaded() -> None:
    result = run("demo", "--budget-s", 0)
    assert result.exit_code == 2
    assert "--budget-s 60" in result.stderr


def test_a_pair_without_its_drafter_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "eagle").mkdir()
    for given in ((), ("--drafter", tmp_path / "eagle")):
        if given or not (SHIPPED / "config.json").exists():
            result = run("demo", "--pair", "smol", *given)
            assert result.exit_code == 2
            assert "train one with examples/train_drafter" in result.stderr
    (tmp_path / "eagle" / "config.json").write_text("{}", encoding="utf-8")
    assert PAIRS["smol"].with_drafter(tmp_path / "eagle").calibration is None
    (tmp_path / "eagle" / "calibration.jsonl").touch()
    assert PAIRS["smol"].with_drafter(tmp_path / "eagle").calibration == tmp_path / "eagle" / "calibration.jsonl"
    assert PAIRS["qwen"].with_drafter(None) == PAIRS["qwen"]


def test_the_shipped_drafter_is_whole_small_and_says_where_it_comes_from() -> None:
    checkpoint = read_eagle(SHIPPED)
    assert checkpoint.config.target.source == PAIRS["smol"].target
    assert checkpoint.head is None
    assert checkpoint.embedding is None
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 10_000_000
    texts = PAIRS["smol"].with_drafter(None).calibration
    assert texts is not None
    assert len(texts.read_text(encoding="utf-8").splitlines()) >= 32
    assert "Licence" in (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert (SHIPPED / "training_log.jsonl").stat().st_size


def test_pairs_are_in_the_catalogue_and_in_the_command() -> None:
    from outlex.cli.demo import Pair

    names = {name for pair in PAIRS.values() for name in (pair.target, pair.drafter)}
    assert names - {str(SHIPPED)} <= set(CATALOGUE)
    assert [pair.value for pair in Pair] == list(PAIRS)


def test_prompts_differ_in_kind_from_their_neighbours() -> None:
    domains = [domain for domain, _ in PROMPTS]
    assert all(a != b for a, b in pairwise(domains))
    assert len({text for _, text in PROMPTS}) == len(PROMPTS) >= 8


def test_the_ranking_prefers_counted_tokens_words_and_low_ids(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_model(models / "target", progress=False).tokenizer
    facts = facts_of(tokenizer)
    piece = {token: i for i, token in enumerate(facts.pieces)}
    ids, provenance = prior_ranking(tokenizer, facts)
    place = {token_id: n for n, token_id in enumerate(ids.tolist())}
    assert sorted(place) == list(range(facts.n_entries))
    assert place[piece["Ġriver"]] < place[piece["!"]]  # a word after a space, against a byte of lower id
    assert place[piece["!"]] < place[piece["~"]]  # neither counted nor a word: the lower id
    assert provenance["sources"][0]["n_counted"] == len(tokenizer("the river and the mill")["input_ids"])

    monkeypatch.setattr("outlex.demo.ranking.docstrings", lambda: ["~~~~~~~~~~~~~~~~~~~~"])
    counted, _ = prior_ranking(tokenizer, facts)
    after = {token_id: n for n, token_id in enumerate(counted.tolist())}
    assert after[piece["~"]] < place[piece["~"]]


def test_docstrings_skip_tests_and_other_encodings(tmp_path: Path) -> None:
    for name, data in {
        "a.py": b'"""one"""\nx = 1\ndef f():\n    """two\n    lines"""\n',
        "b.py": b'"""caf\xe9"""\n',
        "test/c.py": b'"""not this"""\n',
        "site-packages/d.py": b'"""nor this"""\n',
        "sub/e.py": b'"""three"""\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert list(docstrings(tmp_path)) == ["one", "two\n    lines", "three"]


def test_the_standard_library_has_docstrings_enough() -> None:
    assert 100_000 < sum(map(len, docstrings())) <= 4_000_000


def test_the_command_shows_table_verdict_and_next_steps(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = replace(PAIRS["qwen"], target=str(models / "target"), drafter=str(models / "drafter"))
    monkeypatch.setattr(outlex.demo, "PAIRS", {"qwen": pair})
    monkeypatch.setenv("OUTLEX_CACHE", str(tmp_path))
    arguments = ("demo", "--pair", "qwen", "--size", 290, "--budget-s", 0.001, "--quick", "--dtype", "float32")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    for needle in ("tokens/s", "trimmed-290", "T = 1", "What to try next", "290 of 330 rows", "report.html"):
        assert needle in result.stdout
    for command in ("outlex generate", "outlex trim", "outlex bench"):
        assert f"  {command} " in result.stdout
    assert "warm-up" in result.stderr
    assert "recovered" in result.stderr  # where each token of a text came from

    shown = json_of(run(*arguments, "--json"))
    assert shown["n_draft"] == 290
    assert shown["bench"]["config"]["max_new_tokens"] == 16
    assert len(shown["next"]) == 3
    assert json.loads(Path(shown["ranking"]).read_text(encoding="utf-8"))
    page = Path(shown["page"]).read_text(encoding="utf-8")
    assert PROMPTS[0][1].split("`")[0] in page
    assert "trimmed-290" in page
