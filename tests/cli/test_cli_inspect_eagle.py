"""EAGLE drafters at the command line: `inspect` says what they are, `verify` judges them, `retrace` refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_builders import N_ENTRIES, N_ROWS, json_of, run
from eagle_builders import tiny_eagle
from map_files import eagle3
from safetensors.torch import load_file, save_file

from outlex.conformance.aims import bets_on, default_aims
from outlex.formats.eagle_checkpoint import save_eagle
from outlex.models import LanguageModel, load_model

KEPT = torch.arange(0, N_ENTRIES, 2)


@pytest.fixture(scope="module")
def target(models: Path) -> LanguageModel:
    return load_model(models / "target", dtype="float32", threads=1, progress=False)


@pytest.fixture(scope="module")
def drafters(target: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """eagle, eagle3, and reduced: EAGLE-3 with a head of its own for every second token."""
    root = tmp_path_factory.mktemp("eagles")
    save_eagle(root / "eagle", tiny_eagle(target, kind="eagle", feature_layers=(2,)), provenance={"method": "by hand"})
    save_eagle(root / "eagle3", tiny_eagle(target))
    head = torch.randn(len(KEPT), 32, generator=torch.Generator().manual_seed(0))
    save_eagle(root / "reduced", tiny_eagle(target, head=head, draft_to_target=KEPT))
    return root


def edited(source: Path, place: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The same weights with another config."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    change(config)
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(load_file(source / "model.safetensors"), place / "model.safetensors")
    return place


def test_a_drafter_says_what_it_reads_drafts_and_is_for(drafters: Path, models: Path) -> None:
    shown = json_of(run("inspect", drafters / "reduced", "--json"))
    drafter = shown["drafter"]
    assert (shown["kind"], shown["target"], drafter["type"]) == ("eagle-drafter", None, "eagle3")
    assert (drafter["feature_layers"], drafter["feature_width"], drafter["hidden_size"]) == ([1, 2], 64, 32)
    assert (drafter["n_draft"], drafter["drafts_all"], drafter["has_own_head"]) == (len(KEPT), False, True)
    assert drafter["made_for"]["source"] == str(models / "target")
    assert (drafter["made_for"]["n_layers"], drafter["made_for"]["n_rows"]) == (2, N_ROWS)
    assert (shown["map"]["n_draft"], shown["map"]["spelling"]) == (len(KEPT), "offsets")
    stored = load_file(drafters / "reduced" / "model.safetensors")
    assert drafter["n_bytes"] == sum(t.nbytes for name, t in stored.items() if name not in ("d2t", "t2d"))


def test_the_same_in_words(drafters: Path) -> None:
    text = run("inspect", drafters / "reduced").stdout
    for needle in (
        "hidden states 1, 2 (the last one after the final norm)",
        "64 wide",
        "160 of the target's 330 tokens",
    ):
        assert needle in text
    assert "What the engines would do" in text
    text = run("inspect", drafters / "eagle").stdout
    for needle in ("last hidden state, 32 wide", "all 330 tokens", "2 layers, 32 wide", "by hand"):
        assert needle in text
    assert "numbers" not in text  # there is no map to tell about


def test_it_fits_its_target_and_no_other(drafters: Path, models: Path, tmp_path: Path) -> None:
    fits = json_of(run("inspect", drafters / "reduced", "--target", models / "target", "--json"))
    assert fits["target"] == {"name": "target", "n_rows": N_ROWS, "fits": True, "tokenizer_is_proven": True}
    assert (fits["map"]["target"]["verdict"], fits["map"]["must_keep"]["named_by"]) == ("yes", "target")
    for other in ("drafter", "german"):
        refused = run("inspect", drafters / "eagle3", "--target", models / other)
        assert refused.exit_code == 1
        assert "another target" in refused.stderr
        assert refused.stdout == ""
    silent = edited(drafters / "eagle3", tmp_path / "silent", lambda config: config.pop("outlex"))
    assert json_of(run("inspect", silent, "--target", models / "target", "--json"))["target"] == {
        **fits["target"],
        "tokenizer_is_proven": False,
    }


def test_a_checkpoint_that_does_not_say_how_deep_its_target_is_needs_one(
    drafters: Path, models: Path, tmp_path: Path
) -> None:
    silent = edited(drafters / "eagle", tmp_path / "silent", lambda config: config.pop("outlex"))
    refused = run("inspect", silent)
    assert refused.exit_code == 1
    assert "--target MODEL" in refused.stderr
    shown = json_of(run("inspect", silent, "--target", models / "target", "--json"))
    assert shown["drafter"]["feature_layers"] == [2]


def test_a_drafter_that_outlex_cannot_run_still_shows_its_map(tmp_path: Path) -> None:
    result = run("inspect", eagle3(tmp_path / "d"), "--json")
    assert json_of(result)["kind"] == "token-map"
    assert "its map alone" in result.stderr


def test_a_cut_off_drafter_ends_with_one_message(tmp_path: Path) -> None:
    place = eagle3(tmp_path / "d")
    [weights] = place.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    result = run("inspect", place)
    assert result.exit_code == 1
    assert "copy or download it again" in result.stderr
    assert "its map alone" not in result.stderr


def test_options_of_maps_say_nothing_about_a_drafter_of_all_tokens(drafters: Path) -> None:
    refused = run("inspect", drafters / "eagle3", "--n-target", 5)
    assert refused.exit_code == 2
    assert "--n-target" in refused.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"outlex": [1]},
        {"outlex": {"target": "x"}},
        {"outlex": {"target": {"name": "x", "hidden_size": 32, "n_rows": "330"}}},
        {"outlex": {"target": {"name": "x", "hidden_size": 32, "n_rows": 330, "n_layers": []}}},
        {"outlex": None, "speculators_config": [1], "target_hidden_size": "x"},
    ],
    ids=str,
)
def test_a_damaged_config_ends_with_a_typed_error(change: dict[str, Any], drafters: Path, tmp_path: Path) -> None:
    broken = edited(drafters / "eagle", tmp_path / "broken", lambda config: config.update(change))
    refused = run("inspect", broken)
    assert refused.exit_code == 1
    assert "about its target is damaged" in refused.stderr
    assert "save the drafter again" in refused.stderr


def test_verify_judges_our_loop_with_an_eagle_drafter(drafters: Path, models: Path) -> None:
    brief = ("--samples", 6, "--max-new-tokens", 4, "--greedy-tokens", 6, "--limit", 2, "--threads", 1)
    asked = ("--target", models / "target", "--drafter", drafters / "reduced", "--device", "cpu", *brief)
    value = json_of(run("verify", "outlex", *asked, "--json"))
    assert value["lossless_so_far"]
    assert "reduced, own-160 head" in value["engine"]
    # what it cannot draft is a set like any other
    assert value["sampled"]["n_bets"] == len(bets_on(default_aims(N_ROWS, draft_ids=KEPT, has_drafter=False)))
    half = json_of(run("verify", "outlex", *asked, "--engine-dtype", "bfloat16", "--temperature", 0, "--json"))
    assert (half["dtype"], "reduced" in half["engine"]) == ("bfloat16", True)
    refused = run("verify", "transformers", *asked)
    assert refused.exit_code == 2
    assert "takes no EAGLE drafter" in refused.stderr
    assert "verify outlex" in refused.stderr


def test_retrace_says_what_traces_lack_and_what_to_do(drafters: Path, tmp_path: Path) -> None:
    refused = run("retrace", "--traces", tmp_path, "--drafter", drafters / "eagle", "-o", tmp_path / "out")
    assert refused.exit_code == 2
    assert "cannot be retraced" in refused.stderr
    assert f"outlex trace --target TARGET --drafter {drafters / 'eagle'}" in refused.stderr
    assert not (tmp_path / "out").exists()
