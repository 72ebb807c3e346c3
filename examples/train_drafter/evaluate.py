"""Step 4: what a drafter reaches on conversations that it was not trained on, kind by kind.

    python examples/train_drafter/generate.py --target smol135 --prompts held_out.jsonl --out HELD
    python examples/train_drafter/features.py --target smol135 --run HELD --layers 2 15 30
    python examples/train_drafter/evaluate.py --target smol135 --run HELD --drafter DRAFTER/drafter

Acceptance over the whole vocabulary along the target's own text, with 95 % intervals over prompts. What a user sees,
the tokens a target pass emits in real decoding and the speed, is measured by `outlex bench`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from acceptance import measure_acceptance
from conversations import write_json
from dataset import Text, read_texts

from outlex import load_model
from outlex.formats.eagle_checkpoint import read_eagle
from outlex.metrics import Estimate, clustered_ratio

__all__ = ["main"]

_STEPS = 4


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--target", required=True, help="what outlex.load_model takes")
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="folders with features-*.safetensors")
    parser.add_argument("--drafter", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args(arguments)
    target = load_model(args.target, progress=False)
    module = read_eagle(args.drafter, target=target).module.to(target.device, target.dtype)
    kinds: dict[str, list[Text]] = {}
    for answers in sorted(path for run in args.run for path in run.glob("answers-*.jsonl")):
        records = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
        features = answers.with_name(answers.stem.replace("answers", "features") + ".safetensors")
        texts = read_texts([features], layers=module.config.feature_layers, width=target.hidden_size)
        for record, text in zip(records, texts, strict=True):
            kinds.setdefault(record["kind"], []).append(text)
    sums_of = {
        kind: measure_acceptance(
            module,
            texts,
            embedding=target.model.get_input_embeddings().weight,
            head=target.model.get_output_embeddings().weight,
            n_steps=_STEPS,
        )
        for kind, texts in kinds.items()
    }
    n_texts = {kind: len(texts) for kind, texts in kinds.items()}
    n_texts["all"] = sum(n_texts.values())
    names = list(next(iter(sums_of.values())))
    sums_of["all"] = {name: [pair for sums in sums_of.values() for pair in sums[name]] for name in names}
    found: dict[str, dict[str, Estimate]] = {}
    for kind, sums in sums_of.items():
        found[kind] = {name: clustered_ratio(*zip(*pairs, strict=True)) for name, pairs in sums.items() if pairs}
        shown = "  ".join(f"{name} {e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for name, e in found[kind].items())
        print(f"{kind} ({n_texts[kind]} texts): {shown}", flush=True)
    if args.json is not None:
        write_json(args.json, {kind: {name: asdict(e) for name, e in row.items()} for kind, row in found.items()})


if __name__ == "__main__":
    main()
