"""Counting on a Ray cluster of this machine, one of whose workers is killed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from corpora import CHATML, chat, sentence, with_template, write_jsonl

from outlex.calibration.count import CountConfig, CountNews, count_corpus
from outlex.errors import OutlexError

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'outlex[ray]')")
# Ray leaves sockets and files to the garbage collector when it shuts down.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "a.jsonl", [{"text": sentence(seed, 40), "domain": f"d{seed % 3}"} for seed in range(3000)])
    write_jsonl(folder / "b.jsonl", [chat("hi", sentence(seed, 60)) for seed in range(1000)])
    return folder


def workers_of_ray() -> set[int]:
    """Process ids of the workers that count."""
    found = set()
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and b"ray::_count" in (place / "cmdline").read_bytes():
                found.add(int(place.name))
        except OSError:
            continue
    return found


def test_a_killed_worker_changes_nothing(cluster: Any, byte_level: Any, corpus: Path, tmp_path: Path) -> None:
    tokenizer = with_template(byte_level, CHATML)
    options: dict[str, Any] = {"sources": (str(corpus),), "block_bytes": 5_000}
    wanted = count_corpus(CountConfig(workers=1, **options), tokenizer).stats
    killed: list[int] = []
    done = threading.Event()

    def kill_one() -> None:
        while not killed and not done.is_set():
            for pid in sorted(workers_of_ray())[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill_one)

    def begin(news: CountNews) -> None:
        if not killer.is_alive() and not killed:
            killer.start()

    try:
        found = count_corpus(CountConfig(backend="ray", **options), tokenizer, on_news=begin).stats
    finally:
        done.set()
        killer.join()
    assert len(killed) == 1
    wanted.save(tmp_path / "a")
    found.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors_come_back_as_ours(cluster: Any, byte_level: Any, corpus: Path) -> None:
    config = CountConfig(sources=(str(corpus / "b.jsonl"),), backend="ray")
    with pytest.raises(OutlexError, match="no chat template"):
        count_corpus(config, with_template(byte_level, None))
