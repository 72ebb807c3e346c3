"""The network of an EAGLE drafter: one Llama-like layer on the target's hidden states.

    EAGLE     h = fc([e, f]);  g = layer(h);                               logits = W g
    EAGLE-3   s = fc([f_a, f_b, f_c]);  g = layer([norm(e), norm(s)], s);  logits = W norm(g)

e is the embedding of a token, f the target's hidden state at the position *before* it (several layers for EAGLE-3), and
g the state that predicts the token after it. A step that follows takes g in the place of f (EAGLE) or s (EAGLE-3).
Embedding and head W are not part of the network: they are the target's, or stand beside it in the checkpoint.

One module serves training (`unroll`, by batch) and decoding (`EagleRunner`, token by token); queries, keys and values
are one matrix, gate and up another, because a draft step of one token is mostly the cost of starting operations.

Sources: EAGLE, arXiv 2401.15077; EAGLE-3 and its training-time test, arXiv 2503.01840.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outlex.eagle.attention import attend_own_steps, attend_segments
from outlex.eagle.config import EagleConfig
from outlex.eagle.rotary import Rotary
from outlex.errors import InputError
from outlex.heads.linear import linear

__all__ = ["EagleModule"]


class _RmsNorm(nn.RMSNorm):
    """In the dtype of what comes in: under autocast the weight is float32 and the states are not."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class EagleModule(nn.Module):
    """The weights and what they compute.

    Args:
        config: sizes and switches.
    """

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.config = config
        d, width = config.hidden_size, config.attention_width
        self.n_qkv = [config.n_heads * config.head_dim, *[config.n_kv_heads * config.head_dim] * 2]
        n_in = 2 * d if config.kind == "eagle" else config.n_feature_values
        self.fc = _Linear(n_in, d, bias=config.fc_bias)
        self.qkv_proj = _Linear(width, sum(self.n_qkv), bias=config.qkv_bias)
        self.o_proj = _Linear(self.n_qkv[0], d, bias=config.o_bias)
        self.gate_up_proj = _Linear(d, 2 * config.intermediate_size, bias=False)
        self.down_proj = _Linear(config.intermediate_size, d, bias=False)
        self.mlp_norm = self._norm(d)
        self.q_norm = self._norm(config.head_dim) if config.qk_norm else None
        self.k_norm = self._norm(config.head_dim) if config.qk_norm else None
        is_eagle3 = config.kind == "eagle3"
        self.embedding_norm = self._norm(d) if is_eagle3 else None
        self.state_norm = self._norm(d) if is_eagle3 else None
        self.final_norm = self._norm(d) if is_eagle3 else None
        n_norms, width = {"none": (0, 0), "joint": (1, n_in), "each": (len(config.feature_layers), n_in)}[
            config.feature_norm
        ]
        self.feature_norms = nn.ModuleList(self._norm(width // n_norms) for _ in range(n_norms))
        self.rotary = Rotary(config)

    def _norm(self, width: int) -> _RmsNorm:
        return _RmsNorm(width, eps=self.config.norm_eps)

    def named_parts(self) -> dict[str, Tensor]:
        """The weights under the names that checkpoints of the `speculators` library use.

        Views of the parameters: copying into them (without gradients) sets the weights.
        """
        parts = {"fc": self.fc, "layers.0.self_attn.o_proj": self.o_proj, "layers.0.mlp.down_proj": self.down_proj}
        found: dict[str, Tensor] = {}
        for name, module in parts.items():
            found |= {f"{name}.{key}": value for key, value in module.named_parameters()}
        for key, value in self.qkv_proj.named_parameters():
            pieces = zip("qkv", torch.split(value, self.n_qkv), strict=True)
            found |= {f"layers.0.self_attn.{letter}_proj.{key}": piece for letter, piece in pieces}
        gate, up = self.gate_up_proj.weight.chunk(2)
        found |= {"layers.0.mlp.gate_proj.weight": gate, "layers.0.mlp.up_proj.weight": up}
        norms = {
            "layers.0.self_attn.q_norm": self.q_norm,
            "layers.0.self_attn.k_norm": self.k_norm,
            "layers.0.input_layernorm": self.embedding_norm,
            "layers.0.hidden_norm": self.state_norm,
            "layers.0.post_attention_layernorm": self.mlp_norm,
            "norm": self.final_norm,
        }
        found |= {f"{name}.weight": norm.weight for name, norm in norms.items() if norm is not None}
        is_joint = self.config.feature_norm == "joint"
        for i, weight in enumerate(self.feature_norms.parameters()):
            found["input_norm.weight" if is_joint else f"fc_norm.{i}.weight"] = weight
        return found

    def fuse(self, features: Tensor) -> Tensor:
        """The target's hidden states, [..., n_layers · d_target], as states of this network, [..., d]."""
        if self.config.kind == "eagle":
            return features
        if self.config.feature_norm == "joint":
            features = self.feature_norms[0](features)
        elif self.config.feature_norm == "each":
            pieces = features.chunk(len(self.feature_norms), dim=-1)
            normed = [norm(piece) for norm, piece in zip(self.feature_norms, pieces, strict=True)]
            features = torch.cat(normed, dim=-1)
        fused: Tensor = self.fc(features)
        return fused

    def join(self, embedded: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and states, both [..., d] -> what attention reads, [..., width], and the residual, [..., d]."""
        if self.embedding_norm is None or self.state_norm is None:
            joined = self.fc(torch.cat([embedded, states], dim=-1))
            return joined, joined
        normed = self.state_norm(states)
        joined = torch.cat([self.embedding_norm(embedded), normed], dim=-1)
        return joined, normed if self.config.residual_is_normed else states

    def queries_keys_values(self, joined: Tensor, first_position: int) -> tuple[Tensor, Tensor, Tensor]:
        """[..., n, width] at n positions in a row -> rotated queries [..., n, heads, head_dim], keys and values."""
        config = self.config
        qkv = self.qkv_proj(joined).unflatten(-1, (-1, config.head_dim))
        n_rotated = config.n_heads + config.n_kv_heads
        rotated, values = qkv[..., :n_rotated, :], qkv[..., n_rotated:, :]
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = rotated.split([config.n_heads, config.n_kv_heads], dim=-2)
            rotated = torch.cat([self.q_norm(queries), self.k_norm(keys)], dim=-2)
        rotated = self.rotary(rotated, first_position)
        return rotated[..., : config.n_heads, :], rotated[..., config.n_heads :, :], values

    def finish_layer(self, attended: Tensor, residual: Tensor) -> Tensor:
        """Heads side by side [..., heads · head_dim] -> the state after the layer [..., d]."""
        states = residual + self.o_proj(attended)
        gate, up = self.gate_up_proj(self.mlp_norm(states)).chunk(2, dim=-1)
        finished: Tensor = states + self.down_proj(F.silu(gate) * up)
        return finished

    def for_head(self, states: Tensor) -> Tensor:
        """The state after the layer as the draft head wants it, [..., d]."""
        return states if self.final_norm is None else self.final_norm(states)

    def fed_back(self, states: Tensor, for_head: Tensor) -> Tensor:
        """What goes into the next step in the place of `fuse(features)`."""
        return for_head if self.config.feeds_back_normed else states

    def unroll(
        self, embedded: Tensor, features: Tensor, *, n_steps: int, segments: Tensor | None = None
    ) -> list[Tensor]:
        """Several draft steps at every position at once, for training (EAGLE-3's "training-time test").

            position     i = 0    1    2        embedded   e1 e2 e3 e4 e5       features  f0 f1 f2
            step 0    (e1,f0) (e2,f1) (e3,f2)   attends to step 0 of the positions up to its own
            step 1    (e2,g0) (e3,g1) (e4,g2)   and to its own position in the steps before, like a draft does
            step 2    (e3,g0')(e4,g1')(e5,g2')

        Step s at position i predicts token i + 2 + s.

        Args:
            embedded: [B, n + n_steps − 1, d], embeddings of tokens 1, 2, …: the text without its first token.
            features: [B, n, n_layers · d_target], the target's hidden states at tokens 0, 1, …
            n_steps: how many.
            segments: int [B, n], which text each position belongs to, −1 for padding; texts do not see each other. None
                is one text a row; padding on the right needs nothing else than leaving it out of the loss.

        Returns:
            For each step the states that the head scores, [B, n, d].

        Raises:
            InputError: the numbers of tokens do not fit.
        """
        n = features.shape[1]
        if embedded.shape[1] != n + n_steps - 1:
            raise InputError(
                "Embeddings and features do not fit each other",
                got=f"{embedded.shape[1]} embeddings",
                expected=f"{n + n_steps - 1}, for {n_steps} steps at {n} positions",
                next_step="give the text without its first token, and n_steps - 1 tokens (or padding) after its end",
            )
        states, found = self.fuse(features), []
        past_keys: list[Tensor] = []
        past_values: list[Tensor] = []
        for step in range(n_steps):
            joined, residual = self.join(embedded[:, step : step + n], states)
            queries, keys, values = (t.transpose(1, 2) for t in self.queries_keys_values(joined, step))
            past_keys.append(keys)
            past_values.append(values)
            if step == 0:
                attended = attend_segments(queries, keys, values, segments)
            else:
                attended = attend_own_steps(queries, past_keys, past_values, segments)
            states = self.finish_layer(attended.transpose(1, 2).flatten(2), residual)
            found.append(self.for_head(states))
            states = self.fed_back(states, found[-1])
        return found
