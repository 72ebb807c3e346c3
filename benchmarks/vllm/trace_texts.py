"""Trace the texts that vLLM wrote, so that the forecast for them can be held against the acceptance that it counted.

    python benchmarks/vllm/trace_texts.py --result acceptance.json --method plugin-preview --temperature 1 \\
        --target qwen15 --drafter qwen05 --prompts held-out-short.jsonl -o texts-preview-1

vLLM draws the first token of an answer without drafts, so it counts as part of the prompt here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from outlex import load_model
from outlex.bench.workload import encode_prompt, read_prompts
from outlex.calibration.collect import TraceRequest, collect_traces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, required=True, help="of run.py")
    parser.add_argument("--method", required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--drafter", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.result.read_text(encoding="utf-8"))["rows"]
    own = [row for row in rows if (row["method"], row["temperature"]) == (args.method, args.temperature)]
    texts = {name: ids for row in own for name, ids in zip(row["ids"], row["token_ids"], strict=True)}
    target, drafter = (load_model(name, dtype="bfloat16") for name in (args.target, args.drafter))
    requests = [
        TraceRequest(
            id=record.id,
            domain=record.domain,
            prompt_ids=(*encode_prompt(target, record, raw=False), texts[record.id][0]),
            response_ids=tuple(texts[record.id][1:]),
        )
        for record in read_prompts(args.prompts)
        if len(texts.get(record.id, ())) > 1
    ]
    collect_traces(
        target,
        drafter,
        requests,
        args.output,
        max_new_tokens=max(map(len, texts.values())),
        temperature=args.temperature,
    )


if __name__ == "__main__":
    main()
