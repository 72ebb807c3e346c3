"""Measure the speed of counting against the tokenizer library's own, in turn, in one run.

    python benchmarks/counting/throughput.py corpus.jsonl --tokenizer qwen05 --rounds 3 -o throughput.json

Three ways on the same text and cores. raw: `encode_batch_fast` on lists of texts that are in memory already, with the
library's own threads, results thrown away. outlex: `count_corpus` as `outlex count` runs it, from the file to the
statistics, start of its processes included. loop: one document after the other through the tokenizer, ids counted in
Python; on a part of the text, because it is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from outlex.calibration.count import CountConfig, count_corpus
from outlex.calibration.encoding import spec_of
from outlex.models.tokenizer import load_tokenizer

N_AT_ONCE = 1000
LOOP_SHARE = 5


def timed(work: Callable[[], None]) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="JSON lines with 'text'")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    with args.corpus.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    sizes = [len(text.encode()) for text in texts]
    n_bytes, loop_texts = sum(sizes), texts[::LOOP_SHARE]
    loop_bytes = sum(sizes[::LOOP_SHARE])
    backend = tokenizers.Tokenizer.from_str(spec_of(tokenizer).tokenizer)
    config = CountConfig(sources=(f"text={args.corpus}",))
    rounds = []
    for number in range(args.rounds):
        row = {
            "raw": n_bytes / timed(lambda: raw(backend, texts)) / 1e6,
            "outlex": n_bytes / timed(lambda: count_corpus(config, tokenizer) and None) / 1e6,
            "loop": loop_bytes / timed(lambda: loop(tokenizer, loop_texts) and None) / 1e6,
        }
        rounds.append(row)
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {speed:.2f} MB/s" for name, speed in row.items()), flush=True
        )
    result = {
        "unit": "MB of UTF-8 a second",
        "n_bytes": n_bytes,
        "n_documents": len(texts),
        "loop_bytes": loop_bytes,
        "tokenizer": args.tokenizer,
        "n_cores": len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "transformers": transformers.__version__,
        },
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "load_average": list(os.getloadavg()),
        "rounds": rounds,
        "median_outlex_over_raw": statistics.median(row["outlex"] / row["raw"] for row in rounds),
        "median_outlex_over_loop": statistics.median(row["outlex"] / row["loop"] for row in rounds),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"outlex / raw {result['median_outlex_over_raw']:.2f}, outlex / loop {result['median_outlex_over_loop']:.1f}")


if __name__ == "__main__":
    main()
