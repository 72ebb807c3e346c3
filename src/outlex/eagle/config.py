"""What an EAGLE drafter is made of, and which target it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from outlex.errors import InputError, MismatchError

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["EagleConfig", "FeatureNorm", "Kind", "TargetIdentity"]

Kind = Literal["eagle", "eagle3"]
FeatureNorm = Literal["none", "joint", "each"]
# Angles that depend on nothing but the position; the others change with the length of the text.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True)
class TargetIdentity:
    """The model whose hidden states a drafter reads.

    Attributes:
        name: short, for messages.
        source: what `load_model` loads it by; None if nobody said.
        hidden_size: width of its hidden states.
        n_layers: its layers; None where a checkpoint does not say.
        n_rows: rows of its LM head and embedding, padding included.
        tokenizer_fingerprint: of its tokenizer; None where a checkpoint does not say.
    """

    name: str
    source: str | None = None
    hidden_size: int
    n_layers: int | None = None
    n_rows: int
    tokenizer_fingerprint: str | None = None

    @classmethod
    def of(cls, loaded: LanguageModel) -> TargetIdentity:
        """That of a loaded model."""
        from outlex.vocab.tokenizer_facts import facts_of

        return cls(
            name=loaded.name,
            source=loaded.source,
            hidden_size=loaded.hidden_size,
            n_layers=int(loaded.model.config.get_text_config().num_hidden_layers),
            n_rows=loaded.n_rows,
            tokenizer_fingerprint=facts_of(loaded.tokenizer).fingerprint,
        )

    def check(self, loaded: LanguageModel) -> None:
        """Refuse a target that this one is not.

        Raises:
            MismatchError: another hidden size, number of layers, vocabulary or tokenizer.
        """
        other = TargetIdentity.of(loaded)
        for name, what in (
            ("hidden_size", "hidden size"),
            ("n_layers", "layers"),
            ("n_rows", "rows of the LM head"),
            ("tokenizer_fingerprint", "fingerprint of the tokenizer"),
        ):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and mine != theirs:
                raise MismatchError(
                    f"The drafter was made for another target than {other.name}",
                    got=f"{what}: {theirs}",
                    expected=f"{mine}, as {self.name} has",
                    next_step=f"load the target it was made for ({self.source or self.name}), or another drafter",
                )


@dataclass(frozen=True, kw_only=True)
class EagleConfig:
    """Sizes and switches of an EAGLE (arXiv 2401.15077) or EAGLE-3 (arXiv 2503.01840) drafter of one layer.

    Attributes:
        kind: "eagle" predicts the target's last hidden state; "eagle3" reads several layers and has a state of its own.
        target: whose hidden states it reads.
        feature_layers: numbers of the target's layers that it reads, as transformers' `output_hidden_states` counts
            them: 0 is the embedding, i the output of layer i, and the last one, `target.n_layers`, has gone through
            the final norm. "eagle" reads exactly that last one.
        hidden_size, intermediate_size, n_heads, n_kv_heads, head_dim: of its layer.
        norm_eps: of its RMS norms.
        rope: transformers' `rope_parameters`: `rope_type` (default, linear, llama3, yarn), `rope_theta`, and so on.
        max_length: longest context in tokens.
        qkv_bias, o_bias, fc_bias: which projections have a bias (Qwen2: q, k and v).
        qk_norm: RMS norms of queries and keys, a head at a time (Qwen3).
        n_draft: tokens that its head scores (`draft_vocab_size`), if not all of the target's.
        has_own_head, has_own_embedding: whether the checkpoint holds them; otherwise they are the target's.
        residual_is_normed: "eagle3": the residual is taken after the norm of the state (`norm_before_residual`).
        feature_norm: "eagle3": RMS norm of the features before `fc`: "none", "joint" over all layers together
            (`norm_before_fc`), "each" one a layer (`fc_norm`).
        feeds_back_normed: "eagle3": the state goes into the next step after the final norm (`norm_output`).

    Raises:
        InputError: sizes that no network has, or settings that contradict each other.
    """

    kind: Kind
    target: TargetIdentity
    feature_layers: tuple[int, ...]
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    norm_eps: float = 1e-5
    rope: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})
    max_length: int = 2048
    qkv_bias: bool = False
    o_bias: bool = False
    fc_bias: bool = False
    qk_norm: bool = False
    n_draft: int | None = None
    has_own_head: bool = False
    has_own_embedding: bool = False
    residual_is_normed: bool = False
    feature_norm: FeatureNorm = "none"
    feeds_back_normed: bool = False

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "n_heads", "n_kv_heads", "head_dim", "max_length")
        for name in (*sizes, *(() if self.n_draft is None else ("n_draft",))):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise _unusable(f"{name}={value!r}", "an integer >= 1")
        if self.kind not in ("eagle", "eagle3"):
            raise _unusable(f"kind={self.kind!r}", "'eagle' or 'eagle3'")
        if self.n_heads % self.n_kv_heads or self.head_dim % 2:
            raise _unusable(
                f"{self.n_heads} heads, {self.n_kv_heads} of keys and values, {self.head_dim} wide",
                "heads in equal groups, of an even width",
            )
        if not 0 < self.norm_eps < 1:
            raise _unusable(f"norm_eps={self.norm_eps!r}", "a small positive number such as 1e-5")
        if self.n_draft is not None and self.n_draft > self.target.n_rows:
            raise _unusable(f"n_draft={self.n_draft}", f"at most {self.target.n_rows}, the rows of the target's head")
        self._check_rope()
        self._check_features()

    def _check_rope(self) -> None:
        kind, theta = self.rope.get("rope_type", "default"), self.rope.get("rope_theta")
        if kind not in _ROPE_TYPES or not isinstance(theta, int | float) or not theta > 1:
            raise _unusable(f"rope={dict(self.rope)!r:.120}", f"a rope_type of {', '.join(_ROPE_TYPES)}, a rope_theta")
        if self.rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise _unusable(f"rope={dict(self.rope)!r:.120}", "rotation of whole heads (partial_rotary_factor 1)")

    def _check_features(self) -> None:
        layers, last = self.feature_layers, self.target.n_layers
        if (
            not layers
            or len(set(layers)) != len(layers)
            or not all(type(i) is int and i >= 0 and (last is None or i <= last) for i in layers)
        ):
            there = "numbers of the target's layers" if last is None else f"numbers from 0 to {last}"
            raise _unusable(f"feature_layers={layers}", f"{there}, each once")
        if self.kind == "eagle":
            if last is not None and layers != (last,):
                raise _unusable(f"kind 'eagle' with feature_layers={layers}", f"({last},), the target's last state")
            only_eagle3 = (self.residual_is_normed, self.feature_norm != "none", self.feeds_back_normed)
            if any(only_eagle3) or self.hidden_size != self.target.hidden_size:
                raise _unusable(
                    f"kind 'eagle' with {self.hidden_size} wide states and the norms of EAGLE-3: {any(only_eagle3)}",
                    f"states of {self.target.hidden_size}, as the target has, and no other norms",
                )
        elif self.fc_bias:
            raise _unusable("kind 'eagle3' with fc_bias", "no bias")
        if not (self.has_own_embedding and self.has_own_head) and self.hidden_size != self.target.hidden_size:
            raise _unusable(
                f"{self.hidden_size} wide states, and the embedding or head of a target {self.target.hidden_size} wide",
                "the same width, or an own embedding and head",
            )

    @property
    def n_feature_values(self) -> int:
        """Width of the features of one token: all layers side by side."""
        return len(self.feature_layers) * self.target.hidden_size

    @property
    def attention_width(self) -> int:
        """Width of what queries, keys and values are made of: EAGLE-3 sets embedding and state side by side."""
        return self.hidden_size if self.kind == "eagle" else 2 * self.hidden_size

    @classmethod
    def for_target(
        cls,
        loaded: LanguageModel,
        *,
        kind: Kind = "eagle3",
        feature_layers: tuple[int, ...] | None = None,
        **changes: Any,
    ) -> EagleConfig:
        """A drafter like one layer of the target, that shares its embedding and head.

        Args:
            loaded: a Llama-like target: Llama, SmolLM2, Qwen2, Qwen3.
            kind: which of the two.
            feature_layers: None takes 2, n/2 and n − 3, as EAGLE-3 does, or the last one for "eagle".
            changes: any other field.

        Raises:
            InputError: settings that do not fit.
        """
        config = loaded.model.config.get_text_config()
        target = TargetIdentity.of(loaded)
        n_layers = int(config.num_hidden_layers)
        if feature_layers is None:
            feature_layers = (n_layers,) if kind == "eagle" else tuple(sorted({2, n_layers // 2, n_layers - 3}))
        like_target: dict[str, Any] = {
            "hidden_size": target.hidden_size,
            "intermediate_size": config.intermediate_size,
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            "norm_eps": config.rms_norm_eps,
            "rope": dict(config.rope_parameters),
            "max_length": loaded.max_length,
        }
        return cls(kind=kind, target=target, feature_layers=feature_layers, **(like_target | changes))


def _unusable(got: str, expected: str) -> InputError:
    return InputError(
        "These settings make no EAGLE drafter",
        got=got,
        expected=expected,
        next_step="correct the config, or start from EagleConfig.for_target(load_model(TARGET))",
    )
