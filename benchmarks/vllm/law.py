"""Whether the plugin keeps the law inside vLLM: `outlex verify vllm` on every kind of head and proposal.

    python benchmarks/vllm/law.py prepare DIRECTORY --prompts calibration.jsonl     # where outlex is installed
    python benchmarks/vllm/law.py run DIRECTORY --case plugin-16384 --seed 1 -o verify.json     # in vLLM's environment

`prepare` makes a drafter of SmolLM2-135M by noise on its weights, trims it, fits heads and proposals to it, and exports
them. `run` asks for sampled outputs of 8 short prompts in float32, and adds what `outlex verify` found to the result:
one entry for a case and a seed of vLLM, the last one counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from run import ENVIRONMENT, surroundings

TARGET = "smol135"
PROMPTS = (
    "The old mill by the river",
    "def fibonacci(n):\n    ",
    "In 1969, the first",
    "The recipe needs two eggs and",
    "Dear Sir or Madam,",
    "Question: Why is the sky",
    "1. Introduction\n\n",
    "She opened the door and",
)
NOISE = 0.12  # of the standard deviation of each weight matrix: about half of the drafts are accepted
SIZES = (16384, 8192, 1500)
FITTED = ("clusters", "learned", "cold-row", "sparse-kernel", "rdk-first-order")
DRAFTS = {"method": "draft_model", "num_speculative_tokens": 3, "draft_sample_method": "probabilistic"}
CASES = {
    "stock": "noisy",  # vLLM as it is, without the plugin
    "control": None,  # no drafts
    "whole": "noisy",  # the plugin's repair of vLLM's sampling, and the whole head
    **{f"plugin-{size}": f"plugin-{size}" for size in SIZES},
    **{f"plugin-{name}": f"plugin-{name}" for name in ("preview", *FITTED)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    made = commands.add_parser("prepare")
    made.add_argument("directory", type=Path)
    made.add_argument("--prompts", type=Path, required=True, help="to calibrate on; the first 300 characters of 40")
    made.set_defaults(run=lambda args: prepare(args.directory, args.prompts))
    judged = commands.add_parser("run")
    judged.add_argument("directory", type=Path)
    judged.add_argument("--case", choices=CASES, required=True)
    judged.add_argument("--seed", type=int, default=0, help="vLLM's")
    judged.add_argument("--samples", type=int, default=2000)
    judged.add_argument("--known", action="store_true", help="tell the test which drafter it is")
    judged.add_argument("--top-p", type=float, default=1.0)
    judged.add_argument("-o", "--output", type=Path, required=True)
    judged.set_defaults(run=run_case)
    args = parser.parse_args()
    args.run(args)


def prepare(directory: Path, prompts: Path) -> None:
    """Make what is not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    drafter, traces = directory / "noisy", directory / "traces"
    if not drafter.exists():
        save_noisy(drafter)
    write_lines(directory / "prompts.jsonl", [{"id": str(i), "prompt": text} for i, text in enumerate(PROMPTS)])
    lines = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    spread = lines[:: max(1, len(lines) // 40)][:40]
    write_lines(directory / "calibration.jsonl", [{**line, "prompt": line["prompt"][:300]} for line in spread])
    for size in SIZES:
        ids = directory / f"ids-{size}.json"
        ids.write_text(json.dumps(list(range(size))), encoding="utf-8")
        outlex("trim", drafter, "--tokens", ids, "--size", size, output=directory / f"trimmed-{size}")
    pair = ("--target", TARGET, "--drafter", drafter, "--dtype", "float32", "--device", "cpu")
    read = ("--prompts", directory / "calibration.jsonl", "--raw", "--max-new-tokens", 32, "--batch-size", 20)
    outlex("trace", *pair, *read, output=traces)
    outlex("fit-head", "--traces", traces, "--budget", 0.15, output=directory / "preview")
    for name in FITTED:
        trimmed = directory / f"trimmed-{SIZES[-1]}"
        outlex("fit", "--traces", traces, "--trimmed", trimmed, "--proposal", name, output=directory / name)
    for name in (*(f"trimmed-{size}" for size in SIZES), "preview", *FITTED):
        plugin = directory / f"plugin-{name.removeprefix('trimmed-')}"
        outlex("export", directory / name, "--to", "vllm-plugin", "--drafter", drafter, output=plugin)


def save_noisy(path: Path) -> None:
    """SmolLM2-135M with noise on the matrices of its layers."""
    import torch

    from outlex import load_model

    drafter = load_model(TARGET, dtype="float32")
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in drafter.model.named_parameters():
            if weight.ndim == 2 and "layers" in name:
                weight += torch.randn(weight.shape, generator=noise) * weight.std() * NOISE
    drafter.model.save_pretrained(path)
    drafter.tokenizer.save_pretrained(path)


def outlex(*arguments: object, output: Path) -> None:
    """Run a command of outlex, unless its output is there."""
    if not output.exists():
        subprocess.run(["outlex", *map(str, arguments), "-o", str(output)], check=True)


def write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def run_case(args: argparse.Namespace) -> None:
    """Judge one case, and write it into the result."""
    directory, drafter = args.directory, CASES[args.case]
    asked: list[object] = ["verify", "vllm", "--target", TARGET, "--engine-dtype", "float32", "--device", "cpu"]
    asked += ["--engine-args", json.dumps({"enforce_eager": True, "seed": args.seed})]
    asked += ["--prompts", directory / "prompts.jsonl", "--raw", "--samples", args.samples, "--max-new-tokens", 4]
    asked += ["--greedy-tokens", 16, "--top-p", args.top_p, "--json"]
    if drafter is not None:
        asked += ["--speculative-config", json.dumps({"model": str(directory / drafter), **DRAFTS})]
    if args.known:
        asked += ["--drafter", directory / "noisy"]
        trimmed = directory / args.case.replace("plugin-", "trimmed-")
        asked += ["--trimmed", trimmed] if trimmed.exists() else []
    environment = {**os.environ, **ENVIRONMENT}
    if args.case == "stock":
        environment["VLLM_PLUGINS"] = ""
    done = subprocess.run(["outlex", *map(str, asked)], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        sys.exit(f"no verdict on {args.case}")
    found = json.loads(done.stdout)
    found["engine"] = f"vllm: {args.case}, eager, {DRAFTS['num_speculative_tokens']} draft tokens"
    case = {"case": args.case, "seed": args.seed, "known": args.known, "top_p": args.top_p}
    result = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {"runs": []}
    others = [one for one in result["runs"] if {key: one.get(key) for key in case} != case]
    result["runs"] = [*others, {**case, "samples": args.samples, "environment": surroundings(), "found": found}]
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sampled = found["sampled"]
    print(args.case, found["lossless_so_far"], sampled["n_samples"], sampled["log10_evidence"], found["n_accepted"])


def markdown(result: dict[str, Any]) -> str:
    """The runs as a table."""
    lines = [
        "| case | seed of vLLM | drafter known | outputs | greedy equal | drafts accepted | verdict | evidence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        greedy, sampled = run["found"]["greedy"], run["found"]["sampled"]
        case = run["case"] + (f", top-p {run['top_p']:g}" if run["top_p"] < 1 else "")
        ties = sum(one["is_tie"] for one in greedy["disagreements"])
        equal = f"{greedy['n_equal']} of {greedy['n_prompts']}" + (f", {ties} ties" if ties else "")
        alarm = sampled["flagged_at"]
        verdict = "no alarm" if alarm is None else f"**departs**: alarm at output {alarm}"
        evidence = f"10^{sampled['log10_evidence']:.1f}".replace("^-0.0", "^0.0")
        known = "yes" if run["known"] else "no"
        accepted = "–" if run["case"] == "control" else str(run["found"]["n_accepted"])
        cells = (case, run["seed"], known, sampled["n_samples"], equal, accepted, verdict, evidence)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
