"""The weights that training begins with: as much of a drafter as can be had in closed form.

An EAGLE-3 layer sees pairs of a token's embedding u and the state s = fc(features) of the target *before* it, and
predicts the target's next state. Random weights need millions of tokens to find two things that can be written down:

- **the next state is roughly linear** in u and the features. `fc` begins with the part of the features. The part of u
  has to come through attention, so half of the heads look at their own position and pass u on;
- **text repeats itself.** Where the same token stood before, what followed it there is a good guess (an induction head,
  arXiv 2209.11895). The other heads compare a code of the query's own token with the code of the token before each key,
  which the lowest feature layer knows, and bring the key's token.

`o_proj` is then the best linear map from what the heads bring to what is still missing. The MLP begins with nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from dataset import Text
from torch import Tensor
from torch.nn import functional as F

from outlex.eagle import EagleConfig, EagleModule
from outlex.eagle.attention import attend_segments

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["first_weights"]

_N_TEXTS = 300  # about 70,000 positions
_RIDGE = 1e-3  # of the mean variance
_N_POSITIONAL = 4  # fastest pairs of a head's rotation: they tell how far away a key is
_SELF_SHARPNESS = 80.0  # of heads that look at their own position: e^-7 is left for the neighbour
_SELF_BONUS = 8.0  # where heads that look for repetitions go if there is none
_MATCH_SHARPNESS = 4.0
_CODE_AMPLITUDE = 3.0  # of the token's code in s, against what else is in its directions


@torch.no_grad()
def first_weights(config: EagleConfig, target: LanguageModel, texts: Sequence[Text], *, seed: int) -> EagleModule:
    """A float32 module to train, on the target's device.

    Args:
        config: what `Settings.architecture` describes.
        target: the model it drafts for.
        texts: to fit the linear maps on.
        seed: of the MLP's random numbers.
    """
    module = EagleModule(config).float()
    generator = torch.Generator().manual_seed(seed)
    for weight in (module.gate_up_proj.weight, module.fc.weight, module.qkv_proj.weight):
        weight.normal_(0, 0.1 * weight.shape[1] ** -0.5, generator=generator)
    module.gate_up_proj.weight.mul_(10)
    for zero in (module.down_proj.weight, module.o_proj.weight, module.qkv_proj.bias, module.o_proj.bias):
        zero.zero_()
    final_norm = target.model.get_decoder().norm.weight
    module.named_parts()["norm.weight"].copy_(final_norm)
    module.to(target.device)
    start = _Start(module, target.model.get_input_embeddings().weight, final_norm.float(), texts[:_N_TEXTS])
    start.set_states()
    start.set_heads()
    start.set_output()
    return module


class _Start:
    """Sets one part after the other; `fc` first, because the heads read what it gives."""

    def __init__(self, module: EagleModule, embedding: Tensor, final_norm: Tensor, texts: Sequence[Text]) -> None:
        self.module, self.texts, self.final_norm = module, texts, final_norm
        # as the layer sees it: after its norm
        self.tokens = F.rms_norm(embedding.float(), embedding.shape[1:])
        config = module.config
        self.d, self.half = config.hidden_size, config.n_heads // 2
        self.width = config.head_dim - 2 * _N_POSITIONAL * 4  # of a code in a head: the slow pairs
        self.parts = module.named_parts()

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of each text: u, normed features side by side, the token before, and the next state before its norm."""
        for text in self.texts:
            ids, last = text.ids.long().to(self.tokens.device), text.last.float().to(self.tokens.device)
            features = text.features[:-1].float().to(self.tokens.device)
            normed = [F.rms_norm(piece, (self.d,)) for piece in torch.split(features, self.d, dim=-1)]
            wanted = last[1:] / self.final_norm
            yield self.tokens[ids[1:]], torch.cat(normed, dim=-1), self.tokens[ids[:-1]], wanted

    def set_states(self) -> None:
        """`fc`: the features' part of the linear map, and a code of the token before."""
        d, regression = self.d, _Regression()
        for u, features, before, wanted in self._pairs():
            regression.add(torch.cat([u, features], dim=-1), torch.cat([wanted, before], dim=-1))
        solution, bias = regression.solve()
        self.of_tokens, of_features = solution[:d, :d], solution[:d, d:]
        self.module.o_proj.bias.copy_(bias[:d])
        tokens = regression.squares[:d, :d] / regression.n
        self.mean = regression.squares[-1, :d] / regression.n
        values, vectors = torch.linalg.eigh(tokens - torch.outer(self.mean, self.mean))
        self.directions = vectors.flip(1)
        n_code = self.half * self.width
        # white, so that no direction decides alone whether two tokens are the same
        self.code = (self.directions[:, :n_code] * values.flip(0)[:n_code].clamp_min(1e-6).rsqrt()).T
        spread = of_features @ (regression.squares[d:-1, d:-1] / regression.n) @ of_features.T
        variances, quiet = torch.linalg.eigh(spread)
        # the code goes where the states have next to nothing to say
        amplitude = _CODE_AMPLITUDE * variances[:n_code].mean().clamp_min(1e-8).sqrt()
        code_of_features = self.code @ solution[d:, d:]
        self.module.fc.weight.copy_(of_features + amplitude * quiet[:, :n_code] @ code_of_features)

    def _states(self, features: Tensor) -> Tensor:
        return features @ self.module.fc.weight.T

    def set_heads(self) -> None:
        """Queries, keys and values: the first half of the heads passes u on, the second looks for repetitions."""
        regression, module, d, half = _Regression(), self.module, self.d, self.half
        for _, features, before, _ in self._pairs():
            regression.add(F.rms_norm(self._states(features), (d,)), (before - self.mean) @ self.code.T)
        readout, offset = regression.solve()
        dim, first = module.config.head_dim, 4 * _N_POSITIONAL
        slow = torch.tensor([*range(first, dim // 2), *range(dim // 2 + first, dim)])
        weights = {letter: self.parts[f"layers.0.self_attn.{letter}_proj.weight"] for letter in "qkv"}
        biases = {letter: self.parts[f"layers.0.self_attn.{letter}_proj.bias"] for letter in "qkv"}
        for head in range(2 * half):
            sharpness = _SELF_SHARPNESS if head < half else _SELF_BONUS
            for letter in "qk":
                biases[letter][head * dim : head * dim + _N_POSITIONAL] = sharpness**0.5
        passed = torch.linalg.svd(self.of_tokens @ self.directions)[0][:, : half * dim].T @ self.of_tokens
        brought = self.directions[:, : half * dim].T
        weights["v"][: len(passed), :d] += passed
        weights["v"][half * dim : half * dim + len(brought), :d] += brought
        for head in range(half):
            piece, rows = slice(head * self.width, (head + 1) * self.width), (half + head) * dim + slow
            weights["q"][rows, :d] += _MATCH_SHARPNESS * self.code[piece]
            biases["q"][rows] -= _MATCH_SHARPNESS * (self.code[piece] @ self.mean)
            weights["k"][rows, d:] += readout[piece]
            biases["k"][rows] += offset[piece]

    def set_output(self) -> None:
        """`o_proj`: what the heads bring, as the part of the next state that is still missing."""
        regression, module = _Regression(), self.module
        for u, features, _, wanted in self._pairs():
            states = self._states(features)
            joined = torch.cat([u, F.rms_norm(states, (self.d,))], dim=-1)
            heads = [t.transpose(0, 1)[None] for t in module.queries_keys_values(joined, 0)]
            attended = attend_segments(heads[0], heads[1], heads[2], None)[0].transpose(0, 1).flatten(1)
            regression.add(attended, wanted - states)
        solution, bias = regression.solve()
        module.o_proj.weight.copy_(solution)
        module.o_proj.bias.copy_(bias)


class _Regression:
    """Ridge regression with an intercept, from sums over texts."""

    def __init__(self) -> None:
        self.squares, self.products, self.n = torch.zeros(()), torch.zeros(()), 0

    def add(self, inputs: Tensor, wanted: Tensor) -> None:
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=-1)
        self.squares = self.squares + inputs.T @ inputs
        self.products = self.products + inputs.T @ wanted
        self.n += len(inputs)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Map [n_out, n_in] and intercept [n_out]."""
        penalty = _RIDGE * self.squares.diagonal()[:-1].mean() * torch.ones(len(self.squares))
        penalty[-1] = 0
        solution = torch.linalg.solve(self.squares + penalty.to(self.squares.device).diag(), self.products).T
        return solution[:, :-1], solution[:, -1]
