"""Tables in the documentation are made from what was recorded."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))
    return found


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "part"), [("check", "acceptance"), ("check", "speed"), ("check_heads", "speed")])
def test_forecast_and_benchmark(name: str, part: str) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "forecast" / "check.py"))
    assert script[f"{part}_table"](recorded(f"forecast/{name}.json")[part]) in page("forecast.md")


@pytest.mark.parametrize("pair", ["acceptance", "acceptance_gemma"])
def test_heads(pair: str) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "heads" / "acceptance.py"))
    rows = [row for part in ("", "_07", "_corpus") for row in recorded(f"heads/{pair}{part}.json")["rows"]]
    assert script["markdown"](rows) in page("heads.md")


def test_heads_by_calibration() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "heads" / "acceptance.py"))
    assert script["markdown"](recorded("heads/acceptance_curve.json")["rows"]) in page("heads.md")


@pytest.mark.parametrize("name", ["only_code", "without_code"])
def test_heads_fitted_to_other_domains(name: str) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "heads" / "acceptance.py"))
    rows = recorded(f"heads/acceptance_{name}.json")["rows"]
    heads = [head for head in dict.fromkeys(row["head"] for row in rows) if "preview" in head and "2%" not in head]
    assert script["by_domain"](rows, heads=heads) in page("heads.md")


def test_lists_by_ranking() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "selection" / "tli_alpha.py"))
    assert script["markdown"](recorded("selection/tli_alpha.json")) in page("selection.md")


def test_out_of_vocabulary_sampling() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "rdk" / "tables.py"))
    tables, text = dict(script["tables"]()), page("rdk.md")
    assert "smol_qwen/respelled" in tables
    for name, table in tables.items():
        assert f"<!-- {name} -->\n\n{table}\n\n<!-- end -->" in text, f"{name}: benchmarks/rdk/tables.py --write"


def test_seeded_faults_through_the_black_box() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "conformance" / "faults.py"))
    found, text = recorded("conformance/faults.json"), page("conformance.md")
    assert script["markdown"](found) in text
    assert script["false_alarms"](found) in text
    assert [row["fault"] for row in found["faults"]] == list(script["FAULTS"])
    assert [row["fault"] for row in found["harmless"]] == list(script["HARMLESS"])


def test_rounding() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "conformance" / "rounding.py"))
    assert script["markdown"](recorded("conformance/rounding.json")) in page("conformance.md")


@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("run", "speed"),
        ("run", "resident"),
        ("run", "acceptance"),
        ("against_forecast", "forecast"),
        ("against_forecast", "forecast_own_texts"),
        ("law", "verify"),
    ],
)
def test_inside_vllm(script: str, result: str) -> None:
    room = ROOT / "benchmarks" / "vllm"
    table = runpy.run_path(str(room / f"{script}.py"))["markdown"](recorded(f"vllm/{result}.json"))
    assert table in (room / "README.md").read_text(encoding="utf-8")
