from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from bench_builders import result_of, row
from rich.console import Console

from outlex.bench import BenchResult
from outlex.bench.rows import Row
from outlex.bench.table import markdown, renderable
from outlex.bench.verdict import verdicts


def drafted(method: str, n_prompts: int, *, wall_s: float, beta: float, step_s: float, **changes: Any) -> list[Row]:
    return [
        row(
            method=method,
            prompt_id=f"p{i}",
            n_passes=2,
            n_drafted=4,
            n_accepted=3,
            n_tested=4,
            # prompts differ a little, all methods alike
            sum_beta=4 * beta * (1 + 0.01 * (i % 3)),
            draft_s=0.3 * wall_s,
            target_s=0.6 * wall_s,
            draft_step_s=step_s,
            target_pass_s=0.5,
            wall_s=wall_s * (1 + 0.1 * (i % 2)),
            **changes,
        )
        for i in range(n_prompts)
    ]


def ar(n_prompts: int, **changes: Any) -> list[Row]:
    return [row(prompt_id=f"p{i}", wall_s=2.0 * (1 + 0.1 * (i % 2)), **changes) for i in range(n_prompts)]


def said(result: BenchResult) -> str:
    return "\n".join(verdicts(result)).replace("\N{NO-BREAK SPACE}", " ")


def test_says_what_trimming_gains_and_what_it_costs() -> None:
    rows = [
        *ar(8),
        *drafted("untrimmed", 8, wall_s=1.0, beta=0.8, step_s=0.1),
        *drafted("trimmed-8", 8, wall_s=0.8, beta=0.6, step_s=0.07),
    ]
    text = said(result_of(rows))
    assert (
        "T = 0: trimmed-8 against untrimmed: a draft step takes 30.0 % less time, 25.0 % of the "
        "acceptance is lost (95 % interval 25.0 % to 25.0 %) and it decodes 25.0 % faster "
        "(median prompt × 1.250, 95 % interval 1.250 to 1.250)." in text
    )
    assert "untrimmed decodes 100.0 % faster than ar" in text
    assert "transformers" not in text


def test_says_that_it_loses() -> None:
    rows = [
        *drafted("untrimmed", 8, wall_s=1.0, beta=0.8, step_s=0.1),
        *drafted("trimmed-8", 8, wall_s=1.25, beta=0.4, step_s=0.11),
    ]
    text = said(result_of(rows))
    assert "a draft step takes 10.0 % more time, 50.0 % of the acceptance is lost" in text
    assert "and it decodes 20.0 % slower (median prompt × 0.800" in text


def test_says_that_the_prompts_do_not_settle_it() -> None:
    trimmed = drafted("trimmed-8", 8, wall_s=0.9, beta=0.8, step_s=0.1)
    trimmed = [Row(**{**vars(r), "wall_s": r.wall_s * (2.0 if i < 3 else 0.5)}) for i, r in enumerate(trimmed)]
    text = said(result_of([*drafted("untrimmed", 8, wall_s=1.0, beta=0.8, step_s=0.1), *trimmed]))
    assert re.search(r"interval 0\.5\d+ to 2\.2\d+\), which 8 prompts do not settle", text)


def test_says_that_totals_and_prompts_disagree() -> None:
    trimmed = drafted("trimmed-8", 12, wall_s=0.9, beta=0.8, step_s=0.1)
    trimmed = [Row(**{**vars(r), "wall_s": r.wall_s * (9.0 if i == 0 else 1.0)}) for i, r in enumerate(trimmed)]
    text = said(result_of([*drafted("untrimmed", 12, wall_s=1.0, beta=0.8, step_s=0.1), *trimmed]))
    assert re.search(r"[\d.]+ % slower in total, while most prompts say the opposite \(median prompt × 1\.1", text)


def test_says_that_a_few_prompts_prove_nothing() -> None:
    text = said(result_of([*ar(5), *drafted("untrimmed", 5, wall_s=1.0, beta=0.8, step_s=0.1)]))
    assert "untrimmed decodes 100.0 % faster than ar, but so few prompts (5) prove nothing." in text


def test_says_which_greedy_runs_differ() -> None:
    rows = [*ar(2), *drafted("untrimmed", 2, wall_s=1.0, beta=0.8, step_s=0.1, token_ids=(9, 9))]
    assert "the tokens were not always those of ar: untrimmed (2 of 2 runs)" in said(result_of(rows))
    sampled = [Row(**{**vars(r), "temperature": 1.0}) for r in rows]
    assert "not always" not in said(result_of(sampled))


@pytest.fixture
def result() -> BenchResult:
    rows = [*ar(6), *drafted("untrimmed", 6, wall_s=1.0, beta=0.8, step_s=0.1)]
    return result_of([*rows, *[Row(**{**vars(r), "temperature": 1.0}) for r in rows]])


def test_markdown_shows_every_number(result: BenchResult) -> None:
    text = markdown(result)
    lines = text.splitlines()
    assert "**T = 0, result**" in lines
    assert "**T = 1, cost**" in lines
    assert "| method | tokens/s | × ar | × untrimmed | α, mean β | α, counted | τ |" in lines
    # 24 tokens in 6.3 s; Σβ = 4 · 0.8 · (1 + 1.01 + 1.02) · 2 of 24 tested
    assert "| untrimmed | 3.81 | 2.00 | 1.00 | .808 ±.008 | .750 ±.000 | 2.00 |" in lines
    assert "| ar | 1.90 | 1.00 | 0.50 | – | – | 1.00 |" in lines
    # c = 0.1/0.5 s and 100/400 bytes; 29/57/14 of 6.3 s
    assert "| untrimmed | 100.0 | 500.0 | 29/57/14 | 0 | 0 | 1.11 | 1.00 |" in lines
    assert "threads: 2, libiomp5.so" in text
    assert "commit 0123456789ab with changes" in text
    assert "Peak memory 2.00 GB; the weights have 1.50 GB" in text
    for sentence in verdicts(result):
        assert f"- {sentence}" in lines


def test_markdown_tables_are_well_formed(result: BenchResult) -> None:
    blocks = [block.splitlines() for block in markdown(result).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1


def test_the_terminal_shows_the_same(result: BenchResult) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable(result))
    text = console.export_text()
    for line in markdown(result).splitlines():
        if line.startswith("| ") and "---" not in line:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert re.search(r"\s+".join(map(re.escape, cells)), text), cells


def test_eighty_columns_are_enough_for_every_cell(result: BenchResult) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(renderable(result))
    assert "…" not in console.export_text()


def test_everything_comes_from_the_file(result: BenchResult, tmp_path: Path) -> None:
    result.save(tmp_path / "r.json")
    assert markdown(BenchResult.load(tmp_path / "r.json")) == markdown(result)


def test_a_benchmark_that_was_cut_off_says_so(result: BenchResult) -> None:
    values = {name: getattr(result, name) for name in result.__dataclass_fields__}
    assert "cut off" in markdown(BenchResult(**{**values, "complete": False, "memory": {}}))
    assert "cut off" not in markdown(result)


def test_a_target_alone_has_no_columns_about_drafts() -> None:
    made = result_of(ar(6))
    made.models["drafter"] = None
    text = markdown(made)
    assert "drafter none" in text
    assert "α, mean" not in text
    assert "| method | tokens/s | × ar | τ |" in text
