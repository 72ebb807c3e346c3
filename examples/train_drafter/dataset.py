"""What `features.py` stored, as batches for training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from outlex.errors import ArtifactError

__all__ = ["Batch", "Text", "make_batch", "read_texts", "text_batches"]

_HELD_OUT = 32  # one prompt of so many is never trained on


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """One conversation.

    Attributes:
        ids: int32 [n].
        features: of the layers the drafter reads, bfloat16 [n, n_layers · d].
        last: the target's last hidden states, bfloat16 [n, d].
        log_norms: log Σ exp(logits) of the target, float32 [n].
        n_prompt: tokens before the answer.
        temperature: of the answer.
        is_held_out: whether it is for measuring only; decided by the prompt's hash.
    """

    ids: Tensor
    features: Tensor
    last: Tensor
    log_norms: Tensor
    n_prompt: int
    temperature: float
    is_held_out: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Texts side by side, padded on the right.

    Attributes:
        ids: int64 [B, n].
        features: bfloat16 [B, n, n_layers · d].
        last: bfloat16 [B, n, d].
        log_norms: float32 [B, n].
        lawful: bool [B, n]: positions whose law is learnt or measured.
    """

    ids: Tensor
    features: Tensor
    last: Tensor
    log_norms: Tensor
    lawful: Tensor


def read_texts(shards: Sequence[Path], *, layers: Sequence[int], width: int) -> list[Text]:
    """Texts of the shards; their tensors stay in the files until they are used.

    Args:
        shards: files that `features.py` wrote.
        layers: which of the stored layers the drafter reads.
        width: of one hidden state.

    Raises:
        ArtifactError: a layer was not stored.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    texts: list[Text] = []
    for path in shards:
        with safe_open(path, "pt") as file:
            stored: list[int] = json.loads(file.metadata()["layers"])
        if missing := sorted(set(layers) - set(stored)):
            raise ArtifactError(
                f"{path} lacks layers that the drafter reads",
                got=f"stored {stored}",
                expected=f"also {missing}",
                next_step="delete the features-*.safetensors and run features.py with these --layers",
            )
        tensors = load_file(path)
        ends = tensors["n_tokens"].cumsum(0).tolist()
        by_layer = tensors["features"].view(-1, len(stored), width)
        wanted = by_layer[:, [stored.index(layer) for layer in layers]].flatten(1)
        for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            n_prompt, ids = int(tensors["n_prompt"][i]), tensors["ids"][begin:end]
            texts.append(
                Text(
                    ids=ids,
                    features=wanted[begin:end],
                    last=by_layer[begin:end, -1],
                    log_norms=tensors["log_norms"][begin:end],
                    n_prompt=n_prompt,
                    temperature=float(tensors["temperature"][i]),
                    is_held_out=_is_held_out(ids[:n_prompt]),
                )
            )
    return texts


def _is_held_out(prompt_ids: Tensor) -> bool:
    digest = hashlib.sha256(json.dumps(prompt_ids.tolist()).encode()).digest()
    return digest[0] % _HELD_OUT == 0


def text_batches(lengths: Sequence[int], *, n_tokens: int, generator: torch.Generator) -> list[list[int]]:
    """Indices of texts in random batches of similar length, each with about `n_tokens` tokens, padding included."""
    # a little noise on the lengths mixes neighbours anew in every epoch
    noisy = torch.tensor(lengths) * (1 + 0.1 * torch.rand(len(lengths), generator=generator))
    batches: list[list[int]] = [[]]
    longest = 0
    for i in noisy.argsort().tolist():
        longest = max(longest, lengths[i])
        if batches[-1] and (len(batches[-1]) + 1) * longest > n_tokens:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def make_batch(texts: Sequence[Text], *, answers_only: bool) -> Batch:
    """Pad texts to one length. The law at position i is that of token i + 1, so the last position has none to learn."""
    n = max(len(text.ids) for text in texts)
    places = torch.arange(n)
    lawful = [(places < len(text.ids) - 1) & (places >= (text.n_prompt - 1 if answers_only else 0)) for text in texts]
    return Batch(
        ids=pad_sequence([text.ids.long() for text in texts], batch_first=True),
        features=pad_sequence([text.features for text in texts], batch_first=True),
        last=pad_sequence([text.last for text in texts], batch_first=True),
        log_norms=pad_sequence([text.log_norms for text in texts], batch_first=True),
        lawful=torch.stack(lawful),
    )
