"""Measure the speed of counting against the tokenizer library's own, and the peak memory at several sizes.

    python benchmarks/counting/run.py --tokenizer qwen05 -o benchmarks/counting/result.json

Speed: three ways in turn, on the same text and cores, several rounds. raw: `encode_batch_fast` on lists of texts that
are in memory already, with the library's own threads, results thrown away. outlex: `count_corpus` as `outlex count`
runs it, from the file to the statistics, start of its processes included. loop: one document after the other through
the tokenizer, ids counted in Python; on every eighth document, because it is slow.

Memory: for each size, a process of its own counts JSON lines, and one counts a text file without a line break.

The text is `library_text`, or the 'text' of --corpus; for memory always `library_text`, which has new words throughout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from library_text import documents

from outlex.calibration.count import CountConfig, count_corpus
from outlex.calibration.encoding import spec_of
from outlex.models.tokenizer import load_tokenizer

N_AT_ONCE = 1000
LOOP_SHARE = 8
MB = 1_000_000


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def raw(backend: Any, texts: list[str]) -> None:
    for first in range(0, len(texts), N_AT_ONCE):
        backend.encode_batch_fast(texts[first : first + N_AT_ONCE], add_special_tokens=False)


def loop(tokenizer: Any, texts: list[str]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for text in texts:
        for index in tokenizer(text, add_special_tokens=False)["input_ids"]:
            counts[index] += 1
    return counts


def up_to(n_bytes: int) -> Iterator[str]:
    """Documents of so many bytes, as UTF-8."""
    for text in documents():
        if n_bytes <= 0:
            return
        n_bytes -= len(text.encode())
        yield text


def measure_speed(source: str, *, corpus: Path | None, n_bytes: int, n_rounds: int) -> dict[str, Any]:
    if corpus is None:
        texts = list(up_to(n_bytes))
    else:
        with corpus.open(encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
    sizes = [len(text.encode()) for text in texts]
    tokenizer = load_tokenizer(source)
    backend = tokenizers.Tokenizer.from_str(spec_of(tokenizer).tokenizer)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        config = CountConfig(sources=(f"text={path}",))
        for number in range(n_rounds):
            row = {
                "raw": sum(sizes) / seconds(lambda: raw(backend, texts)) / MB,
                "outlex": sum(sizes) / seconds(lambda: count_corpus(config, tokenizer)) / MB,
                "loop": sum(sizes[::LOOP_SHARE]) / seconds(lambda: loop(tokenizer, texts[::LOOP_SHARE])) / MB,
            }
            rounds.append(row)
            shown = ", ".join(f"{name} {speed:.2f} MB/s" for name, speed in row.items())
            print(f"round {number + 1}: {shown}", flush=True)
    return {
        "unit": "MB of UTF-8 a second",
        "text": "Python's standard library and packages" if corpus is None else corpus.name,
        "n_bytes": sum(sizes),
        "n_documents": len(texts),
        "loop_bytes": sum(sizes[::LOOP_SHARE]),
        "rounds": rounds,
        "median_outlex_over_raw": statistics.median(row["outlex"] / row["raw"] for row in rounds),
        "median_outlex_over_loop": statistics.median(row["outlex"] / row["loop"] for row in rounds),
    }


def measure_memory(source: str, *, megabytes: list[int]) -> Iterator[dict[str, Any]]:
    for size in megabytes:
        for name in ("a.jsonl", "a.txt"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                with path.open("w", encoding="utf-8") as file:
                    for text in up_to(size * MB):
                        file.write(json.dumps({"text": text}) + "\n" if name == "a.jsonl" else " ".join(text.split()))
                command = [sys.executable, __file__, "--tokenizer", source, "--count", str(path)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                row = {"file": name, "n_bytes": path.stat().st_size, **json.loads(done.stdout)}
            print(
                f"{size} MB as {name}: {row['elapsed_s']:.0f} s, parent {row['parent_bytes'] / MB:.0f} MB,"
                f" largest worker {row['largest_worker_bytes'] / MB:.0f} MB",
                flush=True,
            )
            yield row


def count_and_print(source: str, path: str) -> None:
    """Peaks in bytes: of this process, and of the largest of those it started."""
    start = time.perf_counter()
    result = count_corpus(CountConfig(sources=(path,), workers=2), load_tokenizer(source))
    peaks = {
        name: resource.getrusage(whose).ru_maxrss * 1024
        for name, whose in (
            ("parent_bytes", resource.RUSAGE_SELF),
            ("largest_worker_bytes", resource.RUSAGE_CHILDREN),
        )
    }
    print(json.dumps({"n_tokens": sum(result.stats.n_tokens), "elapsed_s": time.perf_counter() - start, **peaks}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="what load_model takes")
    parser.add_argument("--corpus", type=Path, help="JSON lines with 'text'; default: `library_text`")
    parser.add_argument("--speed-megabytes", type=int, default=100, help="of `library_text`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-megabytes", type=int, nargs="*", default=[10, 1000])
    parser.add_argument("--count", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.count:
        count_and_print(args.tokenizer, args.count)
        return
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    result = {
        "tokenizer": Path(args.tokenizer).name,
        "n_cores": len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "transformers": transformers.__version__,
        },
        "commit": git.stdout.strip(),
        "load_average": list(os.getloadavg()),
        "speed": measure_speed(
            args.tokenizer, corpus=args.corpus, n_bytes=args.speed_megabytes * MB, n_rounds=args.rounds
        ),
        "memory": list(measure_memory(args.tokenizer, megabytes=args.memory_megabytes)),
    }
    speed = result["speed"]
    print(f"outlex / raw {speed['median_outlex_over_raw']:.2f}, outlex / loop {speed['median_outlex_over_loop']:.1f}")
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
