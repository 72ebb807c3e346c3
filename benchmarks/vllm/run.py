"""Drafters inside vLLM: acceptance, tokens a second and CPU-seconds a token, one engine after the other, in turns.

    python benchmarks/vllm/run.py --target DIR --method untrimmed=SPEC --method NAME=SPEC --prompts FILE -o result.json

SPEC is vLLM's speculative config as JSON, or "none". Each round starts a fresh process for every method (one engine
fills the memory), in another order, with the same prompts: what the machine does meanwhile hits all methods alike. A
row is one batch of prompts at one temperature.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, so that its CPU time is ours
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "KMP_BLOCKTIME": "1",
}
COUNTERS = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")


def main() -> None:
    args = parsed()
    if args.worker is not None:
        work(json.loads(args.worker))
        return
    methods = dict(item.split("=", 1) for item in args.method)
    lines = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    wanted = [line for line in lines if not args.domain or line["domain"] in args.domain]
    prompts = wanted[:: max(1, len(wanted) // args.n_prompts)][: args.n_prompts]
    rows: list[dict[str, Any]] = []
    for turn in range(args.rounds):
        part = prompts[turn :: args.rounds]
        names = list(methods)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            job = {
                "target": str(args.target),
                "spec": None if methods[name] == "none" else json.loads(methods[name]),
                "prompts": part,
                "temperatures": args.temperature,
                "max_new_tokens": args.max_new_tokens,
                "batch": args.batch,
                "compiled": args.compiled,
            }
            command = [sys.executable, __file__, "--worker", json.dumps(job)]
            done = subprocess.run(
                command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True, check=True
            )
            new = [
                json.loads(line.removeprefix("ROW ")) for line in done.stdout.splitlines() if line.startswith("ROW ")
            ]
            rows += [{"method": name, "round": turn, **row} for row in new]
            print(f"round {turn} {name}: {len(new)} rows, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
            result = {
                "arguments": sys.argv[1:],
                "environment": surroundings(),
                "methods": methods,
                "summary": summary(rows, baseline=next(iter(methods))),
                "rows": rows,
            }
            args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"], indent=1))


def work(job: dict[str, Any]) -> None:
    """One engine, all prompts at all temperatures; a line for each batch on stdout."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=job["target"],
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=job["batch"],
        enforce_eager=not job["compiled"],
        enable_prefix_caching=False,
        disable_log_stats=False,
        speculative_config=job["spec"],
    )

    def chat(prompts: list[dict[str, Any]], *, temperature: float, n: int) -> list[Any]:
        messages = [[{"role": "user", "content": one["prompt"]}] for one in prompts]
        answers: list[Any] = engine.chat(
            messages, SamplingParams(temperature=temperature, max_tokens=n), use_tqdm=False
        )
        return answers

    for temperature in job["temperatures"]:
        chat(job["prompts"][:1], temperature=temperature, n=8)  # what runs for the first time is not timed
        for start in range(0, len(job["prompts"]), job["batch"]):
            prompts = job["prompts"][start : start + job["batch"]]
            before, wall, cpu = counters(engine), time.perf_counter(), time.process_time()
            outputs = chat(prompts, temperature=temperature, n=job["max_new_tokens"])
            row: dict[str, Any] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            after = counters(engine)
            tokens = [list(one.outputs[0].token_ids) for one in outputs]
            row |= {name: np.subtract(after[name], before[name]).tolist() for name in after}
            row |= {"temperature": temperature, "ids": [one["id"] for one in prompts]}
            row |= {"n_tokens": sum(map(len, tokens)), "token_ids": tokens, "load": os.getloadavg()[0]}
            print("ROW " + json.dumps(row), flush=True)


def counters(engine: Any) -> dict[str, Any]:
    """vLLM's own counters of speculative decoding so far."""
    found: dict[str, Any] = {}
    for metric in engine.get_metrics():
        name = metric.name.removeprefix("vllm:spec_decode_")
        if name in COUNTERS:
            found[name] = metric.value
        elif name == "num_accepted_tokens_per_pos":
            found["accepted_at"] = list(metric.values)
    return found


def summary(rows: list[dict[str, Any]], *, baseline: str) -> list[dict[str, Any]]:
    """One entry a method and temperature; ratios are the baseline's time a token over this method's."""
    entries = []
    for temperature in sorted({row["temperature"] for row in rows}):
        for name in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if (row["method"], row["temperature"]) == (name, temperature)]
            base = {
                tuple(row["ids"]): row for row in rows if (row["method"], row["temperature"]) == (baseline, temperature)
            }
            pairs = [(row, base[tuple(row["ids"])]) for row in own if tuple(row["ids"]) in base]
            n_tokens = sum(row["n_tokens"] for row in own)
            entry: dict[str, Any] = {
                "temperature": temperature,
                "method": name,
                "n_tokens": n_tokens,
                "tokens_per_s": n_tokens / sum(row["wall_s"] for row in own),
                "cpu_s_per_token": sum(row["cpu_s"] for row in own) / n_tokens,
                "same_text": [sum(a["token_ids"] == b["token_ids"] for a, b in pairs), len(pairs)],
            }
            entry |= acceptance(own)
            for key, label in (("wall_s", "speed_ratio"), ("cpu_s", "cpu_ratio")):
                entry[label] = ratio(pairs, key)
            entries.append(entry)
    return entries


def acceptance(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of tested drafts that were accepted, and tokens a pass; behind a rejection nothing is tested."""
    n_drafts = sum(row.get("num_drafts", 0) for row in rows)
    if not n_drafts:
        return {}
    accepted_at = np.sum([row["accepted_at"] for row in rows], axis=0)
    n_tested = n_drafts + accepted_at[:-1].sum()
    alpha = float(accepted_at.sum() / n_tested)
    return {
        "n_tested": int(n_tested),
        "acceptance_rate": alpha,
        "standard_error": float((alpha * (1 - alpha) / n_tested) ** 0.5),
        "block_efficiency": float(1 + accepted_at.sum() / n_drafts),
    }


def ratio(pairs: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> list[float]:
    """Ratio of seconds a token over the same prompts, with the 95 % interval of a bootstrap over them."""
    if not pairs:
        return []
    values = np.array([[a[key], a["n_tokens"], b[key], b["n_tokens"]] for a, b in pairs])
    generator = np.random.default_rng(0)
    picks = [np.arange(len(values)), *generator.integers(0, len(values), (1000, len(values)))]
    sums = np.array([values[pick].sum(0) for pick in picks])
    found = (sums[:, 2] / sums[:, 3]) / (sums[:, 0] / sums[:, 1])
    return [float(found[0]), *np.quantile(found[1:], (0.025, 0.975)).tolist()]


def surroundings() -> dict[str, Any]:
    """Versions and settings that a number depends on."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    packages = ("outlex", "vllm-cpu", "torch", "transformers", "numba")
    return {
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "commit": commit.stdout.strip(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "preloaded": Path(os.environ.get("LD_PRELOAD", "")).name,
        "settings": ENVIRONMENT,
        "cores": os.cpu_count(),
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--method", action="append", default=[], help="NAME=SPEC; the first is what others are held to")
    parser.add_argument("--prompts", type=Path, help="JSON lines with id, domain and prompt")
    parser.add_argument("--domain", action="append", default=[], help="only these; may be given several times")
    parser.add_argument("--n-prompts", type=int, default=12, help="spread evenly over the file")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="prompts at a time")
    parser.add_argument("--temperature", type=float, action="append")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--compiled", action="store_true", help="let vLLM compile the models; minutes for each of them")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.worker is None and (None in (args.target, args.prompts, args.output) or not args.method):
        parser.error("--target, --prompts, -o and at least one --method are needed")
    args.temperature = args.temperature or [0.0, 1.0]
    return args


if __name__ == "__main__":
    main()
