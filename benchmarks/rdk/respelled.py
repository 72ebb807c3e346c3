"""Respelled tokens against TLI on all prompts of several traces: nothing is fitted, so nothing has to be held out.

    python benchmarks/rdk/respelled.py --traces DIR --traces DIR -o benchmarks/rdk/smol_qwen/respelled.json

One row a temperature and domain, for drafts that are sampled and for drafts that are the arg-max. A temperature is
measured on the traces that were sampled at it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outlex.bench.environment import describe_environment, publishable
from outlex.calibration.head_files import load_heads, load_translation
from outlex.calibration.traces import TraceSet
from outlex.drafters.retokenizing import retokenized_head
from outlex.metrics import clustered_ratio
from outlex.models.options import use_threads
from outlex.proposals import Respelled, Tli, Vanilla
from outlex.sampling import SamplingParams, probabilities
from outlex.verify import overlap

NUMBERS = ("vanilla", "tli", "respelled", "inside", "own mass", "tli, arg-max", "respelled, arg-max")
GREEDY = SamplingParams(temperature=0.0)
ROWS_AT_ONCE = 64


@torch.inference_mode()
def sums_of(traces: TraceSet, temperature: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sums over the positions of each prompt, a row a number; and how many positions."""
    target, drafter = load_heads(traces.header, device="cpu")
    translation = load_translation(traces.header, device="cpu")
    if translation is None:
        raise SystemExit("these traces are of one tokenizer")
    head = retokenized_head(drafter, None, shared=translation.shared)
    proposal = Respelled(first_ids=translation.first_ids, n_target=target.n_rows)
    image = translation.shared.draft_to_target
    params, parts = SamplingParams(temperature=temperature), []
    draft_params = SamplingParams(temperature=temperature or 1.0)
    for rows in traces.blocks(ROWS_AT_ONCE):
        p = probabilities(target.logits(traces.target_hidden[rows]), params)
        scores = head.score(traces.drafter_hidden[rows])
        # TLI has mass on draft columns alone: nothing else of p matters
        columns = p.index_select(-1, image.clamp_min(0)).masked_fill(image < 0, 0.0)
        vanilla, hot, greedy = (
            one.law(scores, own) for one, own in ((Vanilla(), draft_params), (Tli(), draft_params), (Tli(), GREEDY))
        )
        respelled, best = (proposal.law(scores, own).dense() for own in (draft_params, GREEDY))
        parts.append(
            torch.stack(
                [
                    overlap(columns, vanilla.probs),
                    overlap(columns, hot.probs),
                    overlap(p, respelled),
                    columns.sum(-1),
                    vanilla.probs[:, image < 0].sum(-1),
                    overlap(columns, greedy.probs),
                    overlap(p, best),
                ]
            ).double()
        )
    lengths = np.array([prompt.n_positions for prompt in traces.prompts])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.add.reduceat(torch.cat(parts, -1).numpy(), starts, axis=1), lengths


def rows_of(sets: list[TraceSet]) -> list[dict[str, Any]]:
    found = []
    for temperature in sorted({one.temperature for one in sets if one.temperature is not None}):
        own = [one for one in sets if one.temperature == temperature]
        parts = [sums_of(one, temperature) for one in own]
        sums, lengths = np.concatenate([a for a, _ in parts], axis=1), np.concatenate([b for _, b in parts])
        domains = np.array([prompt.domain for one in own for prompt in one.prompts])
        for domain in ["all", *dict.fromkeys(domains.tolist())]:
            kept = (domains == domain) | (domain == "all")
            values = dict(zip(NUMBERS, sums, strict=True))
            values["gain"] = values["respelled"] - values["tli"]
            values["gain, arg-max"] = values["respelled, arg-max"] - values["tli, arg-max"]
            estimates = {k: clustered_ratio(v[kept].tolist(), lengths[kept].tolist()) for k, v in values.items()}
            found.append(
                {
                    "temperature": temperature,
                    "domain": domain,
                    "prompts": int(kept.sum()),
                    "positions": int(lengths[kept].sum()),
                    **{k: [one.value, one.low, one.high] for k, one in estimates.items()},
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, action="append", required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    use_threads(args.threads)
    sets = [TraceSet.load(path) for path in args.traces]
    header = sets[0].header
    body = {
        "environment": describe_environment(torch.device("cpu")),
        "config": {"target": header.target.name, "drafter": header.drafter.name, "dtype": header.target.dtype},
        "rows": rows_of(sets),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(publishable(body), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
