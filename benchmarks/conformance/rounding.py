"""How far rounding moves a target's law: what the tolerances of `outlex verify` rest on.

    python benchmarks/conformance/rounding.py --target smol135 --prompts prompts.jsonl -o rounding.json

The same texts are read by the model in float32 as the reference reads them, in float32 token by token with a cache,
and in bfloat16 token by token. Differences from the first: of the log odds of the sets that the test bets on, at one
position, and of the logits of the five best tokens, as multiples of the rounding unit times the row's largest logit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outlex.bench.environment import describe_environment, publishable
from outlex.bench.workload import read_prompts
from outlex.conformance import ModelReference
from outlex.conformance.aims import Positions, default_aims
from outlex.conformance.law import Tolerance, laws_of
from outlex.models import LanguageModel, load_model
from outlex.models.runner import TargetRunner
from outlex.sampling import SamplingParams

N_TOKENS = 24
UNITS = {"float32": 2.0**-24, "bfloat16": 2.0**-8}


@torch.inference_mode()
def sampled(model: LanguageModel, prompt: list[int], seed: int) -> list[int]:
    """Tokens of the model's own, temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    reference, ids = ModelReference(model), list[int]()
    for _ in range(N_TOKENS):
        law = reference.logits(prompt, [tuple(ids)])[0].softmax(-1)
        ids.append(int(torch.multinomial(law, 1, generator=generator)))
    return ids


@torch.inference_mode()
def step_by_step(model: LanguageModel, prompt: list[int], ids: list[int]) -> Tensor:
    """Logits before each token, read one after the other, float32 [n, n_rows]."""
    runner = TargetRunner(model)
    rows = [runner.forward(torch.tensor(prompt), n_logits=1).logits]
    rows += [runner.forward(torch.tensor([token]), n_logits=1).logits for token in ids[:-1]]
    return torch.cat(rows).float()


def compare(exact: Tensor, other: Tensor, unit: float) -> dict[str, Any]:
    """Quantiles of the differences."""
    places = [(0, (i,)) for i in range(len(exact))]
    last = torch.zeros(len(exact), dtype=torch.int64)
    laws = [laws_of(rows, SamplingParams(), Tolerance(odds=0.0, edge=0.0)) for rows in (exact, other)]
    fixed = Positions(places=places, last_ids=last, laws=laws[0])
    moved: list[Tensor] = []
    for aim in default_aims(exact.shape[-1], draft_ids=None, has_drafter=False):
        members = aim.members(fixed).expand_as(exact)  # the same tokens under both laws
        a, b = (law.mass(members) for law in laws)
        shown = (a > 1e-3) & (a < 1 - 1e-3)
        moved.append(torch.logit(b[shown]) - torch.logit(a[shown]))
    odds = torch.cat(moved)
    best = exact.topk(5).indices
    gap = (other.gather(1, best) - exact.gather(1, best)).abs().amax(-1)
    scaled = gap / (unit * exact.abs().amax(-1))
    return {
        "n_positions": len(exact),
        "log_odds_mean": float(odds.mean()),
        "log_odds_rms": float(odds.square().mean().sqrt()),
        "log_odds_99": float(odds.abs().quantile(0.99)),
        "log_odds_max": float(odds.abs().max()),
        "logit_99": float(gap.quantile(0.99)),
        "logit_max": float(gap.max()),
        "growth_max": float(scaled.max()),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table of what rounding moved."""
    names = ("log odds of a set: mean", "root mean square", "99 %", "largest", "largest logit error")
    head = ("read token by token in", *names, "as multiple of u · s")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name in UNITS:
        row = result[name]
        cells = [row[key] for key in ("log_odds_rms", "log_odds_99", "log_odds_max", "logit_max", "growth_max")]
        words = [f"{value:.2g}" if value >= 0.01 else f"{value:.5f}" for value in cells]
        lines.append(f"| {name} | {row['log_odds_mean']:.4f} | {' | '.join(words)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    single = load_model(arguments.target, dtype="float32")
    half = load_model(arguments.target, dtype="bfloat16")
    rows: dict[str, list[Tensor]] = {"reference": [], "float32": [], "bfloat16": []}
    for number, record in enumerate(read_prompts(arguments.prompts)):
        prompt = single.encode(record.text or "")
        ids = sampled(single, prompt, number)
        before = [tuple(ids[:n]) for n in range(len(ids))]
        rows["reference"].append(ModelReference(single).logits(prompt, before).float())
        rows["float32"].append(step_by_step(single, prompt, ids))
        rows["bfloat16"].append(step_by_step(half, prompt, ids))
    joined = {name: torch.cat(parts) for name, parts in rows.items()}
    result = {
        "target": publishable(arguments.target),
        **{name: compare(joined["reference"], joined[name], UNITS[name]) for name in UNITS},
        "environment": describe_environment(torch.device("cpu")),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
