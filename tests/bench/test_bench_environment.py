from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from outlex.bench import environment
from outlex.bench.environment import describe_environment, memory_use, publishable

CPU = torch.device("cpu")


def test_tells_where_and_with_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("KMP_BLOCKTIME", "1")
    monkeypatch.setenv("LD_PRELOAD", "/opt/x/lib/libiomp5.so:/opt/y/other.so")
    monkeypatch.setattr(sys, "argv", ["/home/someone/bin/outlex", "bench", "--target=/data/big", "-o", "/out/r.json"])
    told = describe_environment(CPU)
    assert told == json.loads(json.dumps(told, allow_nan=False))
    assert told["threads"] == torch.get_num_threads()
    assert told["versions"]["torch"] == torch.__version__
    assert told["openmp_settings"]["OMP_NUM_THREADS"] == "1"
    assert told["openmp_settings"]["KMP_BLOCKTIME"] == "1"
    assert told["preloaded"] == ["libiomp5.so", "other.so"]
    assert told["argv"] == ["outlex", "bench", "--target=…/big", "-o", "…/r.json"]
    assert 1 <= told["usable_cores"] <= told["cores"] == os.cpu_count()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", told["date_utc"])
    assert told["cpu"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is loaded")
def test_names_the_openmp_runtimes_that_are_loaded() -> None:
    found = describe_environment(CPU)["openmp"]
    assert found == sorted(set(found))
    maps = Path("/proc/self/maps").read_text()
    for name in found:
        assert re.match(r"lib(gomp|iomp5|omp)\b", name)
        assert f"/{name}\n" in maps
    if "OpenMP not found" not in torch.__config__.parallel_info():
        assert found


def test_an_openmp_library_is_told_from_its_neighbours() -> None:
    maps = "".join(
        f"7f00-7f01 r-xp 0 08:01 1 /a b/{name}\n"
        for name in ("libgomp-a34b.so.1", "libiomp5.so", "libomp.so", "libompt.so", "libgompx.so", "libc.so")
    )
    assert environment._OPENMP.findall(maps) == ["libgomp-a34b.so.1", "libiomp5.so", "libomp.so"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc as the second opinion")
def test_memory_is_in_bytes() -> None:
    ballast = torch.ones(20_000_000)  # 80 MB
    used = memory_use(CPU)
    status = Path("/proc/self/status").read_text()
    high_water = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
    assert used["peak_rss"] is not None
    assert used["anonymous"] is not None
    assert used["peak_rss"] == pytest.approx(high_water, rel=0.02)
    assert ballast.nbytes < used["anonymous"] <= used["peak_rss"]
    assert used["peak_device"] is None


def test_paths_are_cut_wherever_they_stand() -> None:
    assert publishable({"a": ["/x/y", ("b/c", 1, None)], "d": {"e": "--p=/q/r"}, "f": "1/2"}) == {
        "a": ["…/y", ["b/c", 1, None]],
        "d": {"e": "--p=…/r"},
        "f": "1/2",
    }


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_and_whether_the_sources_were_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "src" / "outlex"
    source.mkdir(parents=True)
    assert environment._commit(tmp_path) == (None, None)  # no checkout
    (source / "a.py").write_text("1")
    git("init", "-q")
    assert environment._commit(tmp_path) == (None, None)  # no commit
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert environment._commit(tmp_path) == (head, False)
    (tmp_path / "result.json").write_text("{}")
    assert environment._commit(tmp_path) == (head, False)  # what a benchmark writes changes no source
    (source / "b.py").write_text("2")
    assert environment._commit(tmp_path) == (head, True)


def test_a_command_that_fails_tells_nothing() -> None:
    assert environment._output("outlex-no-such-command") is None
    assert environment._output(sys.executable, "-c", "raise SystemExit(3)") is None
