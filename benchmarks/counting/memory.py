"""Measure the peak memory of counting corpora of several sizes, each in a process of its own.

    python benchmarks/counting/memory.py corpus.jsonl --tokenizer qwen05 --megabytes 10 100 1000 -o memory.json

Each size is the text of the corpus over and over, as JSON lines and as one text file without a line break.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measure(source: str, tokenizer: str) -> None:
    """Count, and print the peaks in bytes: of this process, and of the largest of those it started."""
    from outlex.calibration.count import CountConfig, count_corpus
    from outlex.models.tokenizer import load_tokenizer

    start = time.perf_counter()
    result = count_corpus(CountConfig(sources=(source,), workers=2), load_tokenizer(tokenizer))
    print(
        json.dumps(
            {
                "n_tokens": sum(result.stats.n_tokens),
                "elapsed_s": time.perf_counter() - start,
                "parent_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "largest_worker_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
            }
        )
    )


def write(path: Path, data: bytes, n_bytes: int) -> None:
    with path.open("wb") as file:
        while file.tell() < n_bytes:
            file.write(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="JSON lines with 'text'")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.measure:
        measure(str(args.corpus), args.tokenizer)
        return
    lines = args.corpus.read_bytes()
    text = " ".join(json.loads(line)["text"] for line in lines.splitlines()).replace("\n", " ").encode() + b" "
    rows: list[dict[str, Any]] = []
    for n_megabytes in args.megabytes:
        for name, data in (("a.jsonl", lines), ("a.txt", text)):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                write(path, data, n_megabytes * 1_000_000)
                command = [sys.executable, __file__, str(path), "--tokenizer", args.tokenizer, "--measure"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append({"file": name, "n_bytes": path.stat().st_size, **json.loads(done.stdout)})
                print(rows[-1], flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
