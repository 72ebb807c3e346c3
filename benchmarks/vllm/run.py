"""Drafters inside vLLM: acceptance, tokens a second and CPU-seconds a token, one engine after the other, in turns.

    python benchmarks/vllm/run.py --target DIR --method untrimmed=SPEC --method NAME=SPEC --prompts FILE -o result.json

SPEC is vLLM's speculative config as JSON, or "none". Each round starts a fresh process for every method (one engine
fills the memory), in another order, with the same prompts: what the machine does meanwhile hits all methods alike.
With --resident all engines stay in memory, and take turns at every batch: better pairs, where the memory is there (5.5
GB for each with the Qwen pair). A row is one batch of prompts at one temperature.
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


def main() -> None:
    args = parsed()
    if args.worker is not None:
        work(json.loads(args.worker))
        return
    methods = dict(item.split("=", 1) for item in args.method)
    lines = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    wanted = [line for line in lines if not args.domain or line["domain"] in args.domain]
    prompts = wanted[:: max(1, len(wanted) // args.n_prompts)][: args.n_prompts]
    engine = {"target": str(args.target), "batch": args.batch, "compiled": args.compiled}
    names, rows = list(methods), []
    workers: dict[str, Worker] = {}
    parts = [prompts[turn :: args.rounds] for turn in range(args.rounds)]
    if args.resident:
        parts = batches(prompts, args.batch)
    for turn, part in enumerate(parts):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name not in workers:
                spec = None if methods[name] == "none" else json.loads(methods[name])
                workers[name] = Worker({**engine, "spec": spec})
            job = {"prompts": part, "temperatures": args.temperature, "max_new_tokens": args.max_new_tokens}
            new = workers[name].rows(job)
            if not args.resident:
                workers.pop(name).close()
            rows += [{"method": name, "round": turn, **row} for row in new]
            print(f"round {turn} {name}: {len(new)} rows, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
            result = {
                "arguments": sys.argv[1:],
                "environment": surroundings(),
                "methods": methods,
                "summary": summary(rows, baseline=names[0]),
                "rows": rows,
            }
            args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for worker in workers.values():
        worker.close()
    print(markdown(result))


def batches(prompts: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    """Consecutive prompts, `size` at a time."""
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


class Worker:
    """A process with one engine: jobs go in as lines of JSON, rows come out.

    Args:
        engine: what `work` makes the engine from.
    """

    def __init__(self, engine: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(engine)],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rows(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Run a job to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        found = []
        for line in self._process.stdout:  # vLLM prints there as well
            if line.startswith("ROW "):
                found.append(json.loads(line.removeprefix("ROW ")))
            elif line.startswith("DONE"):
                return found
        sys.exit(f"an engine ended early, with status {self._process.wait()}")

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def work(settings: dict[str, Any]) -> None:
    """One engine; for each job, all its prompts at all temperatures. A line for each batch, and one at the end."""
    from vllm import LLM, SamplingParams

    drafts = Drafts((settings["spec"] or {}).get("num_speculative_tokens", 0))
    engine = LLM(
        model=settings["target"],
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=settings["batch"],
        enforce_eager=not settings["compiled"],
        enable_prefix_caching=False,
        speculative_config=settings["spec"],
    )

    def chat(prompts: list[dict[str, Any]], *, temperature: float, n: int) -> list[Any]:
        messages = [[{"role": "user", "content": one["prompt"]}] for one in prompts]
        answers: list[Any] = engine.chat(
            messages, SamplingParams(temperature=temperature, max_tokens=n), use_tqdm=False
        )
        return answers

    warm: set[float] = set()
    for line in sys.stdin:
        job = json.loads(line)
        for temperature in job["temperatures"]:
            if temperature not in warm:  # what runs for the first time is not timed
                chat(job["prompts"][:1], temperature=temperature, n=8)
                warm.add(temperature)
            for prompts in batches(job["prompts"], settings["batch"]):
                wall, cpu = time.perf_counter(), time.process_time()
                outputs = chat(prompts, temperature=temperature, n=job["max_new_tokens"])
                row: dict[str, Any] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
                tokens = [list(one.outputs[0].token_ids) for one in outputs]
                row |= {"temperature": temperature, "ids": [one["id"] for one in prompts], "drafts": drafts.of(outputs)}
                row |= {"n_tokens": sum(map(len, tokens)), "token_ids": tokens, "load": os.getloadavg()[0]}
                print("ROW " + json.dumps(row), flush=True)
        print("DONE", flush=True)


class Drafts:
    """Blocks, tested and accepted drafts of each request, as they are in its text.

    vLLM's own counters also count what was drafted and accepted behind an output's last token. So this looks at what
    its scheduler is handed for a request after a pass, and at what it keeps of it; a prefill comes without drafts.
    """

    def __init__(self, draft_len: int) -> None:
        from vllm.v1.core.sched.scheduler import Scheduler

        self.counts: dict[str, list[int]] = {}
        update = Scheduler._update_request_with_output

        def counted(scheduler: Any, request: Any, token_ids: list[int], *more: Any, **named: Any) -> Any:
            n_before, n_handed = request.num_output_tokens, len(token_ids)
            kept, stopped = update(scheduler, request, token_ids, *more, **named)
            if n_before and draft_len:
                is_cut = len(kept) < n_handed  # then all that is kept are drafts
                block = (1, min(len(kept), draft_len), len(kept) if is_cut else len(kept) - 1)
                name = request.request_id.split("-")[0]
                self.counts[name] = [x + y for x, y in zip(self.counts.get(name, (0, 0, 0)), block, strict=True)]
            return kept, stopped

        Scheduler._update_request_with_output = counted

    def of(self, outputs: list[Any]) -> list[list[int]]:
        """[n_blocks, n_tested, n_accepted] of finished requests."""
        return [self.counts.pop(one.request_id.split("-")[0], [0, 0, 0]) for one in outputs]


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
    blocks, tested, accepted = np.array([counts for row in rows for counts in row["drafts"]]).T
    if not tested.sum():
        return {}
    alpha = accepted.sum() / tested.sum()
    return {
        "n_tested": int(tested.sum()),
        "acceptance_rate": float(alpha),
        # of a ratio over prompts: drafts of one text are alike
        "standard_error": float(np.sqrt(((accepted - alpha * tested) ** 2).sum()) / tested.sum()),
        "block_efficiency": float((sum(row["n_tokens"] for row in rows) - len(blocks)) / blocks.sum()),
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


def markdown(result: dict[str, Any]) -> str:
    """The summary as a table; ratios with their 95 % intervals."""
    lines = [
        "| T | method | tokens | tokens/s | ratio | CPU-seconds a token | ratio | α of tested drafts | tokens a pass |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in result["summary"]:
        ratios = [
            "1" if entry[key][0] == 1.0 else f"{entry[key][0]:.2f} ({entry[key][1]:.2f} to {entry[key][2]:.2f})"
            for key in ("speed_ratio", "cpu_ratio")
        ]
        cells = (
            f"{entry['temperature']:g}",
            entry["method"],
            entry["n_tokens"],
            f"{entry['tokens_per_s']:.2f}",
            ratios[0],
            f"{entry['cpu_s_per_token']:.3f}",
            ratios[1],
            f"{entry['acceptance_rate']:.3f} ± {1.96 * entry['standard_error']:.3f}",
            f"{entry['block_efficiency']:.2f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


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
    parser.add_argument("--rounds", type=int, default=2, help="without --resident: fresh engines so many times")
    parser.add_argument("--resident", action="store_true", help="keep all engines in memory, in turns at each batch")
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
