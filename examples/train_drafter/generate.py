"""Step 1: prompts without a data set, and the target's answers to them.

    python examples/train_drafter/generate.py --target smol135 --out RUN --n-prompts 4096 --exclude held_out.jsonl

`prompts.py` says where the prompts come from. Half of the answers are greedy, half are drawn at temperature 1. A run
works in rounds and appends shards to `RUN`; started again, it goes on where it stopped. With `--prompts FILE` it
answers the prompts of a file instead, for example held-out ones to measure on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversations import append_shard, read_shards, write_json
from overlap import PromptFilter
from package_texts import PACKAGES
from prompts import candidate_prompts
from slots import Job, sample_jobs

from outlex import load_model
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["main"]

_ROUND = 384  # prompts; the emptying batch at the end of a round costs the more the shorter it is
_SHARD = 64


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and generate."""
    args = _parser().parse_args(arguments)
    target = load_model(args.target, progress=False)
    held_out = [record["prompt"] for path in args.exclude for record in _records(path)]
    wanted = PromptFilter(held_out)
    _write_manifest(args, target, held_out)
    if args.prompts is not None:
        _answer(args, target, _given_prompts(args, target))
        return
    for number, first in enumerate(range(0, args.n_prompts, _ROUND)):
        prompts = _prompts_of_round(args, target, number, min(_ROUND, args.n_prompts - first), wanted)
        _answer(args, target, prompts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--target", required=True, help="what outlex.load_model takes")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--n-prompts", type=int, default=4096)
    parser.add_argument("--prompts", type=Path, help="answer these instead: JSON lines with prompt, id and domain")
    parser.add_argument("--max-new-tokens", type=int, default=192, help="of an answer")
    parser.add_argument("--max-prompt-tokens", type=int, default=768, help="longer prompts are left out")
    parser.add_argument("--slots", type=int, default=128, help="texts that grow in one pass")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="JSON lines with prompts to keep unseen")
    return parser


def _records(path: Path) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        record = json.loads(line) if line.strip() else None
        if record is not None and not isinstance(record.get("prompt"), str):
            raise InputError(
                f"Line {number} of {path} has no prompt",
                got=line[:60],
                expected='{"prompt": "..."}',
                next_step="give JSON lines with the text under 'prompt'",
            )
        if record is not None:
            yield record


def _write_manifest(args: argparse.Namespace, target: LanguageModel, held_out: list[str]) -> None:
    manifest: dict[str, Any] = {
        "target": target.name,
        "seed": args.seed,
        "max_new_tokens": args.max_new_tokens,
        "n_held_out": len(held_out),
        "held_out_sha256": hashlib.sha256("\n".join(held_out).encode()).hexdigest(),
        "versions": {package: version(package) for package in PACKAGES},
    }
    path = args.out / "generation.json"
    if path.exists() and (before := json.loads(path.read_text("utf-8"))) != manifest:
        different = sorted(key for key in manifest if before.get(key) != manifest[key])
        raise InputError(
            f"{args.out} was begun with other settings",
            got=", ".join(f"{key}={manifest[key]}" for key in different),
            expected=", ".join(f"{key}={before.get(key)}" for key in different),
            next_step="go on with the same settings, or choose another --out",
        )
    write_json(path, manifest)


def _prompts_of_round(
    args: argparse.Namespace, target: LanguageModel, number: int, n_prompts: int, wanted: PromptFilter
) -> list[dict[str, Any]]:
    """The round's prompts, read or made; `wanted` has seen them afterwards."""
    stem = f"prompts-{number:03d}"
    prompts = list(read_shards(args.out, stem))
    if prompts:
        for prompt in prompts:
            wanted.accepts(prompt["text"])
        return prompts
    longest = min(args.max_prompt_tokens, target.max_length - args.max_new_tokens)
    candidates = candidate_prompts(target, n_prompts=n_prompts, round_number=number, seed=args.seed, n_slots=args.slots)
    for source, kind, text in candidates:
        if wanted.accepts(text) and len(_asked(target, text)) <= longest:
            prompts.append({"id": f"{number:03d}-{len(prompts):04d}", "kind": kind, "source": source, "text": text})
    append_shard(args.out, stem, prompts)
    print(f"round {number}: {len(prompts)} prompts {dict(Counter(p['kind'] for p in prompts))}", flush=True)
    return prompts


def _given_prompts(args: argparse.Namespace, target: LanguageModel) -> list[dict[str, Any]]:
    longest = min(args.max_prompt_tokens, target.max_length - args.max_new_tokens)
    given = [
        {
            "id": str(record.get("id", number)),
            "kind": record.get("domain", "given"),
            "source": args.prompts.name,
            "text": record["prompt"],
        }
        for number, record in enumerate(_records(args.prompts))
    ]
    return [prompt for prompt in given if len(_asked(target, prompt["text"])) <= longest]


def _asked(target: LanguageModel, text: str) -> list[int]:
    """A conversation's ids up to where the answer begins."""
    return target.encode_chat([{"role": "user", "content": text}])


def _answer(args: argparse.Namespace, target: LanguageModel, prompts: list[dict[str, Any]]) -> None:
    """Answer what has no answer yet, shortest prompts first."""
    done = {record["id"] for record in read_shards(args.out, "answers")}
    by_name = {prompt["id"]: prompt for prompt in prompts}
    jobs = [_answer_job(args, target, prompt) for prompt in prompts if prompt["id"] not in done]
    jobs.sort(key=lambda job: len(job.prompt_ids))
    finished = sample_jobs(target, jobs, n_slots=args.slots)
    while records := [_record(job, ids, by_name[job.name]) for job, ids in islice(finished, _SHARD)]:
        append_shard(args.out, "answers", records)
        n_tokens = sum(len(record["answer_ids"]) for record in records)
        print(f"{records[-1]['id']}: {len(records)} answers, {n_tokens} tokens", flush=True)


def _answer_job(args: argparse.Namespace, target: LanguageModel, prompt: dict[str, Any]) -> Job:
    number = int(hashlib.sha256(f"{args.seed}/{prompt['id']}".encode()).hexdigest()[:15], 16)
    return Job(
        name=prompt["id"],
        prompt_ids=_asked(target, prompt["text"]),
        max_new_tokens=args.max_new_tokens,
        temperature=float(number % 2),
        seed=number,
    )


def _record(job: Job, ids: list[int], prompt: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": job.name,
        "kind": prompt["kind"],
        "source": prompt["source"],
        "temperature": job.temperature,
        "prompt_ids": job.prompt_ids,
        "answer_ids": ids,
    }


if __name__ == "__main__":
    main()
