"""Step 2: the target's hidden states at every token of the generated conversations, stored once.

    python examples/train_drafter/features.py --target smol135 --run RUN --layers 2 15 30

For every `answers-N.jsonl` it writes a `features-N.safetensors`; started again, it goes on where it stopped. The last
hidden state is always stored. A token takes d · 2 bytes a layer: 3.5 KB for three of a model 576 wide.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex import load_model

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["main"]

_BATCH_TOKENS = 4096  # of one pass, padding included
_HEAD_ROWS = 256  # positions that are scored at once: as wide as the vocabulary, they would not fit otherwise


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and store the features."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--target", required=True, help="what outlex.load_model takes")
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="folders that generate.py wrote")
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="0 is the embedding, i the output of layer i")
    args = parser.parse_args(arguments)
    target = load_model(args.target, progress=False)
    last = int(target.model.config.get_text_config().num_hidden_layers)
    layers = sorted({*args.layers, last})  # the last one gives the law that is learnt
    for answers in sorted(path for run in args.run for path in run.glob("answers-*.jsonl")):
        stored = answers.with_name(answers.stem.replace("answers", "features") + ".safetensors")
        if not stored.exists():
            texts = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
            tensors = _features(target, texts, layers)
            _save(stored, tensors, layers)
            print(f"{stored}: {len(texts)} texts, {len(tensors['ids'])} tokens", flush=True)


@torch.inference_mode()
def _features(target: LanguageModel, texts: list[dict[str, Any]], layers: list[int]) -> dict[str, Tensor]:
    ids = [text["prompt_ids"] + text["answer_ids"] for text in texts]
    found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(ids)
    for batch in _batches([len(i) for i in ids]):
        n = max(len(ids[i]) for i in batch)
        # padding on the right: no real token ever looks at it
        padded = torch.tensor([ids[i] + [0] * (n - len(ids[i])) for i in batch], device=target.device)
        out = target.model.get_decoder()(input_ids=padded, output_hidden_states=True, use_cache=False)
        hidden = torch.cat([out.hidden_states[layer] for layer in layers], dim=-1)
        for row, i in enumerate(batch):
            states = out.last_hidden_state[row, : len(ids[i])]
            found[i] = (hidden[row, : len(ids[i])].bfloat16().cpu(), _log_norms(target, states).cpu())
    return {
        "ids": torch.tensor([i for text in ids for i in text], dtype=torch.int32),
        "n_tokens": torch.tensor([len(i) for i in ids], dtype=torch.int32),
        "n_prompt": torch.tensor([len(text["prompt_ids"]) for text in texts], dtype=torch.int32),
        "temperature": torch.tensor([text["temperature"] for text in texts], dtype=torch.float32),
        "features": torch.cat([features for features, _ in found]),
        "log_norms": torch.cat([norms for _, norms in found]),
    }


def _batches(lengths: list[int]) -> list[list[int]]:
    """Indices of texts of similar length, padded to at most `_BATCH_TOKENS` together."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[i] > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def _log_norms(target: LanguageModel, states: Tensor) -> Tensor:
    """log Σ_v exp(logit_v) over all tokens, [n, d] -> float32 [n]: with it, a part of the rows gives exact p."""
    head = target.model.get_output_embeddings()
    return torch.cat([head(piece).float().logsumexp(-1) for piece in torch.split(states, _HEAD_ROWS)])


def _save(path: Path, tensors: dict[str, Tensor], layers: list[int]) -> None:
    from safetensors.torch import save_file

    unfinished = path.with_name(path.name + ".part")
    save_file(tensors, unfinished, metadata={"layers": json.dumps(layers)})
    os.replace(unfinished, path)


if __name__ == "__main__":
    main()
