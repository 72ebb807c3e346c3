"""Count tokens for the draft vocabulary of this benchmark, leaving out the prompts it is measured on.

    python benchmarks/qwen_pair/count_tokens.py qwen05 --chats gsm8k_chat.jsonl --prompts prompts.jsonl \
        --hold-out 24 -o counts.json

Of chats the assistant's turns are counted, of prompts the text. A prompt file has no answers, so prompts stand in for
the words of their domain.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from outlex import load_model
from outlex.bench.workload import read_prompts
from outlex.vocab.counts import count_tokens
from outlex.vocab.tokenizer_facts import facts_of


def texts(chats: Path, prompts: Path, hold_out: int) -> Iterator[str]:
    with chats.open(encoding="utf-8") as lines:
        for line in lines:
            yield from (m["content"] for m in json.loads(line)["messages"] if m["role"] == "assistant")
    held_out = {record.id for record in read_prompts(prompts, limit=hold_out)}
    yield from (record.text for record in read_prompts(prompts) if record.id not in held_out and record.text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="whose tokenizer counts")
    parser.add_argument("--chats", type=Path, required=True, help="JSON lines with messages")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON lines with prompts")
    parser.add_argument(
        "--hold-out", type=int, required=True, help="prompts to leave out, chosen as `outlex bench` does"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = load_model(args.model).tokenizer
    counts = count_tokens(
        texts(args.chats, args.prompts, args.hold_out), tokenizer, n_tokenizer=facts_of(tokenizer).n_entries
    )
    seen = {str(i): int(counts[i]) for i in counts.nonzero().flatten().tolist()}
    args.output.write_text(json.dumps(seen))
    print(f"{int(counts.sum()):,} tokens, {len(seen):,} different ones, in {args.output}")


if __name__ == "__main__":
    main()
