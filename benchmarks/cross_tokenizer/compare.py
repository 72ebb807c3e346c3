"""A drafter with another tokenizer: outlex with and without respelled tokens, and transformers' universal assistance.

    python benchmarks/cross_tokenizer/compare.py --target qwen05 --drafter smol135 --prompts FILE -o compare.json

All methods take turns on each prompt in one process, in another order each time, so that what the machine does hits all
alike. transformers drafts by token-level intersection where it samples (`UniversalSpeculativeDecodingGenerator`) and by
the drafted text, encoded anew, where it is greedy (`AssistedCandidateGeneratorDifferentTokenizers`). Sampling, it cuts
embedding and LM head of its drafter down to the intersection for good, so it gets a copy for each of the two.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from outlex import SpeculativeDecoder, Tli, load_model
from outlex.bench.environment import describe_environment, publishable
from outlex.bench.workload import encode_prompt, read_prompts
from outlex.drafters import RetokenizingDrafter
from outlex.metrics import clustered_ratio
from outlex.models import LanguageModel
from outlex.sampling import SamplingParams

Run = Callable[[list[int], SamplingParams, int, int], dict[str, Any]]
NAMES = ("ar", "outlex, tli", "outlex, respelled", "transformers")


def main() -> None:
    args = parsed()
    if args.table is not None:
        print(markdown(json.loads(args.table.read_text(encoding="utf-8"))))
        return
    if args.prompts is None or args.output is None:
        raise SystemExit("give --prompts and -o, or --table FILE")
    target, drafter = (load_model(name, dtype=args.dtype, threads=args.threads) for name in (args.target, args.drafter))
    ours = RetokenizingDrafter(target, drafter)
    methods: dict[str, Run] = {
        "ar": of_outlex(SpeculativeDecoder(target)),
        "outlex, tli": of_outlex(SpeculativeDecoder(target, ours, proposal=Tli(), draft_len=args.draft_len)),
        "outlex, respelled": of_outlex(
            SpeculativeDecoder(target, ours, proposal=ours.respelled(), draft_len=args.draft_len)
        ),
        "transformers": of_transformers(
            target, *(load_model(args.drafter, dtype=args.dtype) for _ in range(2)), draft_len=args.draft_len
        ),
    }
    rows = []
    prompts = read_prompts(args.prompts, limit=args.n_prompts)
    for i, record in enumerate(prompts):
        ids = encode_prompt(target, record, raw=False)
        for temperature in args.temperature:
            for name in [*NAMES[i % len(NAMES) :], *NAMES[: i % len(NAMES)]]:
                if i == 0:
                    methods[name](ids, SamplingParams(temperature=temperature), 4, 0)  # warms up
                start = time.perf_counter()
                found = methods[name](ids, SamplingParams(temperature=temperature), args.max_new_tokens, i)
                seconds = time.perf_counter() - start
                rows.append(
                    {"prompt": record.id, "domain": record.domain, "method": name, "temperature": temperature}
                    | {"seconds": seconds, **found}
                )
                print(
                    f"{i + 1}/{len(prompts)} T={temperature:g} {name}: {found['n_tokens']} in {seconds:.1f} s",
                    flush=True,
                )
    body = {
        "environment": describe_environment(target.device),
        "config": {name: value for name, value in vars(args).items() if name not in ("output", "prompts", "table")},
        "rows": rows,
        "summary": summary(rows, args.temperature),
    }
    args.output.write_text(json.dumps(publishable(body), indent=1) + "\n", encoding="utf-8")
    print(markdown(body))


def of_outlex(decoder: SpeculativeDecoder) -> Run:
    def run(ids: list[int], params: SamplingParams, n: int, seed: int) -> dict[str, Any]:
        found = decoder.generate(ids, max_new_tokens=n, params=params, seed=seed)
        return {
            "n_tokens": found.n_tokens,
            "n_passes": len(found.steps),
            "n_accepted": found.n_accepted,
            "n_tested": found.n_tested,
        }

    return run


def of_transformers(
    target: LanguageModel, greedy_drafter: LanguageModel, sampling_drafter: LanguageModel, *, draft_len: int
) -> Run:
    from transformers import GenerationConfig

    for drafter in (greedy_drafter, sampling_drafter):
        drafter.model.generation_config = GenerationConfig(
            num_assistant_tokens=draft_len, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
        )
    model: Any = target.model

    def run(ids: list[int], params: SamplingParams, n: int, seed: int) -> dict[str, Any]:
        passes = 0

        def count(*_: object) -> None:
            nonlocal passes
            passes += 1

        drafter = greedy_drafter if params.greedy else sampling_drafter
        handle, own = model.register_forward_pre_hook(count), model.generation_config
        law = {} if params.greedy else {"temperature": params.temperature, "top_k": 0, "top_p": 1.0}
        stops = sorted(target.stop_ids)
        torch.manual_seed(seed)
        try:
            model.generation_config = GenerationConfig()
            out = model.generate(
                torch.tensor([ids], device=target.device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=target.device),
                generation_config=GenerationConfig(
                    do_sample=not params.greedy,
                    max_new_tokens=n,
                    eos_token_id=stops,
                    pad_token_id=stops[0],
                    **law,
                ),
                assistant_model=drafter.model,
                tokenizer=target.tokenizer,
                assistant_tokenizer=drafter.tokenizer,
            )
        finally:
            handle.remove()
            model.generation_config = own
        return {"n_tokens": int(out.shape[1]) - len(ids), "n_passes": passes}

    return run


def summary(rows: list[dict[str, Any]], temperatures: list[float]) -> list[dict[str, Any]]:
    """Ratios of sums over prompts; intervals take prompts as clusters. Speed is relative to the target alone."""
    found = []
    for temperature in temperatures:
        of_ar = [row for row in rows if (row["method"], row["temperature"]) == ("ar", temperature)]
        alone = sum(row["n_tokens"] for row in of_ar) / sum(row["seconds"] for row in of_ar)
        for name in NAMES:
            own = [row for row in rows if (row["method"], row["temperature"]) == (name, temperature)]
            tau = clustered_ratio([row["n_tokens"] for row in own], [row["n_passes"] for row in own])
            speed = sum(row["n_tokens"] for row in own) / sum(row["seconds"] for row in own)
            entry: dict[str, Any] = {
                "temperature": temperature,
                "method": name,
                "n_prompts": len(own),
                "tokens_per_pass": [tau.value, tau.low, tau.high],
                "speed_over_ar": speed / alone,
            }
            if own and own[0].get("n_tested"):
                alpha = clustered_ratio([row["n_accepted"] for row in own], [row["n_tested"] for row in own])
                entry["acceptance_rate"] = [alpha.value, alpha.low, alpha.high]
            found.append(entry)
    return found


def markdown(body: dict[str, Any]) -> str:
    """The table of docs/cross_tokenizer.md."""
    lines = ["| T | method | tokens a target pass | accepted of tested drafts | speed |", "|---|---|---|---|---|"]
    for row in body["summary"]:
        tau, alpha = row["tokens_per_pass"], row.get("acceptance_rate")
        accepted = "" if alpha is None else f"{alpha[0]:.3f}"
        lines.append(
            f"| {row['temperature']:g} | {row['method']} | {tau[0]:.2f} ({tau[1]:.2f} to {tau[2]:.2f}) | {accepted}"
            f" | × {row['speed_over_ar']:.2f} |"
        )
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="qwen05")
    parser.add_argument("--drafter", default="smol135")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--n-prompts", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--draft-len", type=int, default=4)
    parser.add_argument("--temperature", type=float, action="append")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--table", type=Path, help="print the table of a recorded file, and do nothing else")
    args = parser.parse_args()
    args.temperature = args.temperature or [0.0, 1.0]
    return args


if __name__ == "__main__":
    main()
