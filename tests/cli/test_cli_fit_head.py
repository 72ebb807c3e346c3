"""`outlex fit-head`: from traces to an artifact that generate, bench, forecast and inspect take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cli_builders import json_of, run
from tiny_models import tiny_model

from outlex.drafters import FittedHead

WIDE: dict[str, Any] = {"seed": 1, "n_rows": 8320, "hidden_size": 64, "head_dim": 16}
SHORT = ("--max-new-tokens", 8, "--dtype", "float32", "--temperature", 0)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """--target and --drafter: a pair whose heads are large enough for a preview."""
    root = tmp_path_factory.mktemp("wide")
    target, drafter = tiny_model(**WIDE), tiny_model(**WIDE, n_layers=1)
    theirs = dict(target.model.state_dict())
    drafter.model.load_state_dict({key: theirs[key] for key in drafter.model.state_dict()})
    for name, model in (("target", target), ("drafter", drafter)):
        model.model.save_pretrained(root / name)
        model.tokenizer.save_pretrained(root / name)
    return ["--target", root / "target", "--drafter", root / "drafter"]


@pytest.fixture(scope="module")
def wide_traces(wide: list[object], texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "t"
    result = run(
        *("trace", *wide, "--prompts", texts, "-o", path, "--max-new-tokens", 50, "--dtype", "float32", "--raw"),
        *("--temperature", 1),
    )
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture(scope="module")
def head(wide_traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "preview"
    result = run("fit-head", "--traces", wide_traces, "--budget", 0.3, "-o", path)
    assert result.exit_code == 0, result.stderr
    for needle in ("preview-63 for drafter", "bytes a step", "prompts it was not fitted to", "Try it:", f"{path}"):
        assert needle in result.stdout
    return path


@pytest.mark.parametrize("method", ["preview", "in-context", "both"])
def test_report_and_artifact_agree(method: str, wide_traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "h"
    body = json_of(run("fit-head", "--traces", wide_traces, "--method", method, "--budget", 0.3, "-o", out, "--json"))
    saved = FittedHead.load(out)
    assert (body["name"], body["budget"], body["output"]) == (saved.name, 0.3, str(out))
    assert body["head"] == saved.describe()
    assert body["head"]["method"] == method
    assert body["trials"] == body["head"]["provenance"]["trials"]
    assert 0 < body["trials"][0]["head_bytes"] <= 0.3
    assert body["trials"][0]["acceptance"].keys() == {"1"}
    assert f"--trimmed {out}" in body["next"]
    # an artifact of its kind is replaced
    assert run("fit-head", "--traces", wide_traces, "--budget", 0.3, "-o", out).exit_code == 0
    assert FittedHead.load(out).method == "preview"


def test_the_time_of_a_step_is_told_where_it_was_asked_for(wide_traces: Path, tmp_path: Path) -> None:
    arguments = ["fit-head", "--traces", wide_traces, "--budget", 0.3, "-o", tmp_path / "h"]
    refused = run(*arguments, "--latency", 1e-9)
    assert refused.exit_code == 2
    assert "larger --latency" in refused.stderr
    found = re.search(r"at least ([\d.]+)%", refused.stderr)
    assert found is not None
    assert not (tmp_path / "h").exists()


def test_decoding_with_it(head: Path, wide: list[object], texts: Path, wide_traces: Path, tmp_path: Path) -> None:
    plain = ["-p", "the mill", "--json", *SHORT]
    alone = json_of(run("generate", *wide[:2], *plain))
    fast = json_of(run("generate", *wide, "--trimmed", head, *plain))
    assert fast["token_ids"] == alone["token_ids"]
    assert fast["head"] == "preview-63"
    # the drafter is known to the artifact
    assert json_of(run("generate", *wide[:2], "--trimmed", head, *plain))["drafter"] == "drafter"
    out = tmp_path / "r.json"
    benched = json_of(
        run(
            *("bench", *wide, "--prompts", texts, "--limit", 2, "--baselines", "ar,untrimmed", "--trimmed", head),
            *("-o", out, "--json", *SHORT),
        )
    )
    assert [method["name"] for method in benched["methods"]] == ["ar", "untrimmed", "preview-63"]
    assert [summary["n_same_as_ar"] for summary in benched["summary"]] == [2, 2, 2]
    whole, own = (method["draft_bytes"] for method in benched["methods"][1:])
    assert own < whole
    body = json_of(run("forecast", "--traces", wide_traces, "--trimmed", head, "--bench", out, "--json"))
    cells = {cell["candidate"]: cell for cell in body["cells"] if cell["domain"] is None}
    assert cells.keys() == {"untrimmed", "preview-63"}
    assert cells["preview-63"]["head_bytes"] < 0.3 * cells["untrimmed"]["head_bytes"]
    assert cells["preview-63"]["tokens_per_s"] > 0
    assert cells["preview-63"]["mean_beta"]["value"] <= cells["untrimmed"]["mean_beta"]["value"] + 1e-6


def test_inspect_says_what_it_is(head: Path, wide: list[object], models: Path, tmp_path: Path) -> None:
    shown = json_of(run("inspect", head, "--json"))
    assert (shown["kind"], shown["vocab"], shown["tokens"]) == ("fitted-head", None, None)
    assert shown["base"] == {"name": "drafter", "source": str(wide[3]), "n_rows": 8320}
    saved = FittedHead.load(head)
    assert shown["fitted"] == {**saved.describe(), "tokenizer_fingerprint": saved.tokenizer_fingerprint}
    text = run("inspect", head).stdout
    for needle in ("fitted-head", "of rank 63 in int4", "second stage", "of the acceptance", saved.head_fingerprint):
        assert needle in text
    fits = json_of(run("inspect", head, "--target", wide[1], "--json"))
    assert fits["target"] == {"name": "target", "n_rows": 8320, "fits": True}
    refused = run("inspect", head, "--target", models / "target")
    assert refused.exit_code == 1
    assert "another tokenizer" in refused.stderr
    assert "fit-head" in refused.stderr


def test_inspect_shows_the_tokens_of_an_in_context_head(wide_traces: Path, wide: list[object], tmp_path: Path) -> None:
    out = tmp_path / "h"
    arguments = ["fit-head", "--traces", wide_traces, "--method", "in-context", "--budget", 0.1, "-o", out]
    assert run(*arguments).exit_code == 0
    shown = json_of(run("inspect", out, "--json"))
    assert shown["vocab"]["n_draft"] == shown["fitted"]["static"] == 257
    assert shown["tokens"]["must_keep"]["byte"] == {"n_kept": 256, "n": 256}
    text = run("inspect", out, "--target", wide[1]).stdout
    for needle in ("257 for a target of 8,320", "must-keep", "its own tokens", "fits target"):
        assert needle in text


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["--budget", "0.001"], 2, "larger --budget"),
        (["--budget", "0.001", "--method", "both"], 2, "larger --budget"),
        (["--budget", "0.001", "--method", "in-context"], 2, "larger --budget"),
        (["--budget", "0"], 2, "0.03 to 0.05"),
        (["--budget", "2"], 2, "0.03 to 0.05"),
        (["--latency", "0"], 2, "0.125"),
        (["--method", "svd"], 2, "svd"),
        (["--held-out", "1"], 2, "between 0 and 1"),
        (["--traces", "nowhere"], 1, "outlex trace"),
        (["-o", "{texts}"], 1, "another output directory"),
        (["-o", "{trimmed}"], 1, "another output directory"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_explained(
    wide_traces: Path, texts: Path, trimmed: Path, tmp_path: Path, arguments: list[str], code: int, needle: str
) -> None:
    before = sorted(trimmed.iterdir())
    filled = [argument.format(texts=texts, trimmed=trimmed) for argument in arguments]
    result = run("fit-head", "--traces", wide_traces, "--budget", 0.3, "-o", tmp_path / "h", *filled)
    assert result.exit_code == code
    assert needle in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "h").exists()
    assert sorted(trimmed.iterdir()) == before


def test_too_few_traces_say_how_many_are_needed(wide: list[object], texts: Path, tmp_path: Path) -> None:
    arguments: list[Any] = ["trace", *wide, "--prompts", texts, "-o", tmp_path / "t", "--max-new-tokens", 10, "--raw"]
    assert run(*arguments, "--dtype", "float32").exit_code == 0
    result = run("fit-head", "--traces", tmp_path / "t", "--budget", 0.3, "-o", tmp_path / "h")
    assert result.exit_code == 2
    assert "at least 200" in result.stderr
    assert "outlex trace" in result.stderr


def test_it_is_not_put_on_another_drafter(head: Path, wide: list[object], tmp_path: Path) -> None:
    other = tiny_model(**{**WIDE, "seed": 3}, n_layers=1)
    other.model.save_pretrained(tmp_path / "drafter")
    other.tokenizer.save_pretrained(tmp_path / "drafter")
    result = run("generate", *wide[:2], "--drafter", tmp_path / "drafter", "--trimmed", head, "-p", "x", *SHORT)
    assert result.exit_code == 1
    assert "other weights" in result.stderr
    assert "fit the head again" in result.stderr
