"""Fitted heads on disk: what comes back, what is refused, and which drafter they go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_builders import tiny_trimmed
from fitted_heads import fitted, states
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model, tiny_pair
from torch import Tensor

from outlex.artifact import read_artifact, write_artifact
from outlex.drafters import FittedHead, Shortlists, TrimmedDrafter, load_draft_head
from outlex.errors import ArtifactError, InputError, MismatchError, OutlexError
from outlex.heads import InContextHead
from outlex.heads.linear import LinearHead
from outlex.heads.preview import PreviewHead
from outlex.models.output_head import output_head

METHODS = ["preview", "in-context", "both"]


def same_scores(one: FittedHead, other: FittedHead) -> bool:
    heads = [head.head_for(tiny_pair()[1], n_target=260) for head in (one, other)]
    for head in heads:
        head.begin([5, 6, 7])
        head.observe([8], torch.arange(260.0).unsqueeze(0))
    scores = [head.score(states(1, 32, seed=3)) for head in heads]
    ids = [score.token_map.draft_to_target for score in scores]
    return torch.equal(ids[0], ids[1]) and torch.equal(scores[0].logits, scores[1].logits)


@pytest.mark.parametrize("method", METHODS)
def test_it_comes_back_as_it_was(method: Any, tmp_path: Path) -> None:
    head = fitted(method)
    head.save(tmp_path / "h")
    back = FittedHead.load(tmp_path / "h")
    assert back.describe() == head.describe()
    assert json.dumps(back.describe())
    for name in ("method", "shortlists", "base_name", "base_source", "base_n_rows", "head_fingerprint", "provenance"):
        assert getattr(back, name) == getattr(head, name)
    assert (back.name, back.n_draft, back.tokenizer_fingerprint) == (
        head.name,
        head.n_draft,
        head.tokenizer_fingerprint,
    )
    assert same_scores(back, head)
    # another one takes its place as a whole
    other = replace(head, base_name="other")
    other.save(tmp_path / "h")
    assert FittedHead.load(tmp_path / "h").base_name == "other"


def test_names_tell_what_it_is() -> None:
    assert [fitted(method).name for method in METHODS] == ["preview-31", "in-context-3", "preview-31+in-context"]
    assert [fitted(method).n_draft for method in METHODS] == [20, 3, 20]
    heads = [fitted(method).head_for(tiny_pair()[1], n_target=260) for method in METHODS]
    assert [type(head) for head in heads] == [PreviewHead, InContextHead, PreviewHead]
    assert [head.follows_request for head in heads] == [False, True, True]
    assert [head.name for head in heads] == [fitted(method).name for method in METHODS]


@pytest.mark.parametrize("n_target", [257, 260, 300])
@pytest.mark.parametrize("method", METHODS)
def test_targets_of_other_widths(method: Any, n_target: int) -> None:
    head = fitted(method).head_for(tiny_pair()[1], n_target=n_target)
    head.begin([1, 2, 256])
    scores = head.score(states(1, 32, seed=1))
    assert scores.token_map.n_target == n_target
    assert int(scores.token_map.draft_to_target.max()) < min(260, n_target)


@pytest.mark.parametrize("method", METHODS)
def test_any_kind_of_draft_head_is_read_by_its_path(method: Any, tmp_path: Path) -> None:
    fitted(method).save(tmp_path / "f")
    tiny_trimmed(40).save(tmp_path / "t")
    tiny_trimmed(40).vocab.save(tmp_path / "v")
    assert isinstance(load_draft_head(tmp_path / "f"), FittedHead)
    assert isinstance(load_draft_head(tmp_path / "t"), TrimmedDrafter)
    with pytest.raises(ArtifactError, match="outlex fit-head") as caught:
        load_draft_head(tmp_path / "v")
    assert "sub-vocab" in str(caught.value)
    with pytest.raises(ArtifactError, match="check the path"):
        load_draft_head(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="--trimmed"):
        FittedHead.load(tmp_path / "t")
    with pytest.raises(ArtifactError, match="--trimmed"):
        TrimmedDrafter.load(tmp_path / "f")


def test_weights_in_another_dtype_are_the_same_weights() -> None:
    drafter = tiny_pair()[1]
    # as a bfloat16 checkpoint is loaded: in bfloat16, or widened
    half = LinearHead(weight=output_head(drafter).weight.to(torch.bfloat16))
    narrow = replace(fitted(), head_fingerprint=half.fingerprint)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        head = narrow.head_from(LinearHead(weight=half.weight.to(dtype)), n_target=260)
        assert head.score(states(1, 32, seed=2).to(dtype)).logits.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_other_weights_and_other_tokenizers_are_refused(method: Any, byte_level: Any) -> None:
    drafter = tiny_pair()[1]
    others = [tiny_model(seed=5), tiny_model(seed=1, n_layers=1, n_rows=300), replace(drafter, tokenizer=byte_level)]
    for other in others:
        with pytest.raises(MismatchError, match="tiny-drafter") as caught:
            fitted(method).head_for(other, n_target=260)
        assert "fit" in str(caught.value.next_step)
    scaled = LinearHead(weight=output_head(drafter).weight, scale=2.0)
    with pytest.raises(MismatchError, match="other weights"):
        fitted(method).head_from(scaled, n_target=260)


def test_a_small_head_keeps_room_for_the_preview() -> None:
    head = replace(fitted("both"), shortlists=Shortlists(n_candidates=100, n_exact=20)).head_for(
        tiny_pair()[1], n_target=260
    )
    head.begin(list(range(240)))
    assert head.score(states(1, 32, seed=1)).logits.shape == (1, 260)
    with pytest.raises(InputError, match="capacity of 240"):
        head.begin(list(range(241)))


@pytest.mark.parametrize(
    "changes", [{"n_exact": 0}, {"n_candidates": 2.5}, {"capacity": True}, {"top_m": -1}, {"n_exact": "256"}], ids=str
)
def test_sizes_out_of_range(changes: Any) -> None:
    with pytest.raises(InputError, match="defaults are good starts"):
        Shortlists(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "in-context"},
        {"method": "svd"},
        {"preview": None},
        {"vocab": fitted("in-context").vocab},
        {"base_n_rows": 261},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_that_do_not_fit_each_other(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="outlex fit-head"):
        replace(fitted(), **changes)


# --- damage -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=METHODS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "h"
    fitted(request.param).save(path)
    return path


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_files_are_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    shutil.copytree(saved, directory, dirs_exist_ok=True)
    path = data.draw(st.sampled_from(sorted(directory.iterdir())))
    contents = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(contents) - 1))
    if data.draw(st.booleans()):
        del contents[place:]
    else:
        contents[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(contents)
    for load in (FittedHead.load, load_draft_head):
        with pytest.raises(ArtifactError) as caught:
            load(directory)
        assert caught.value.next_step


def rewritten(saved: Path, out: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> Path:
    """A whole artifact, checksums and all, with other contents."""
    artifact = read_artifact(saved, kind="fitted-head")
    config, tensors = json.loads(json.dumps(artifact.config)), dict(artifact.tensors)
    change(config, tensors)
    write_artifact(out, kind="fitted-head", config=config, tensors=tensors)
    return out


def used(path: Path) -> OutlexError | None:
    """What loading it and making a head of it is refused with; any other error goes through."""
    refusal: OutlexError | None = None
    try:
        head = FittedHead.load(path)
        head.describe()
        # what no check of the file can see, the head's own does
        head.head_for(tiny_pair()[1], n_target=260)
    except (ArtifactError, MismatchError, InputError) as error:
        refusal = error
    assert refusal is None or refusal.next_step
    return refusal


def test_a_missing_part_is_named(saved: Path, tmp_path: Path) -> None:
    artifact = read_artifact(saved, kind="fitted-head")
    for name in [*artifact.tensors, *artifact.config]:

        def drop(config: dict[str, Any], tensors: dict[str, Tensor], name: str = name) -> None:
            config.pop(name, None)
            tensors.pop(name, None)

        with pytest.raises(ArtifactError, match="again") as caught:
            FittedHead.load(rewritten(saved, tmp_path / "h", drop))
        assert name in str(caught.value) or "sub-vocabulary" in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, "x", 2**70, [["int4"]]], ids=str)
def test_values_of_another_type_are_refused_or_harmless(saved: Path, tmp_path: Path, value: Any) -> None:
    config = read_artifact(saved, kind="fitted-head").config
    places: list[tuple[str, ...]] = [(key,) for key in config]
    places += [(key, below) for key, part in config.items() if isinstance(part, dict) for below in part]
    for place in places:

        def change(config: dict[str, Any], tensors: dict[str, Tensor], place: tuple[str, ...] = place) -> None:
            for key in place[:-1]:
                config = config[key]
            config[place[-1]] = value

        path = rewritten(saved, tmp_path / "h", change)
        used(path)


@pytest.mark.parametrize(
    "hostile",
    [
        torch.zeros(()),
        torch.zeros(0, 0),
        torch.zeros(2, 2, 2),
        torch.zeros(260, 33, dtype=torch.int8),
        torch.zeros(260, 3, dtype=torch.uint8),
        torch.full((260,), 10**12),
        torch.zeros(259, dtype=torch.bfloat16),
        torch.zeros(32, 1_000, dtype=torch.bfloat16),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_hostile_shapes_are_refused_or_harmless(saved: Path, tmp_path: Path, hostile: Tensor) -> None:
    for name in read_artifact(saved, kind="fitted-head").tensors:

        def change(config: dict[str, Any], tensors: dict[str, Tensor], name: str = name) -> None:
            tensors[name] = hostile

        refusal = used(rewritten(saved, tmp_path / "h", change))
        assert refusal is not None or name == "must_keep_ids"  # which no head looks at
