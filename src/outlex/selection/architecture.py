"""Reads the shape of a drafter from its config. What is not known is refused, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from outlex.errors import ModelError
from outlex.selection.cost import DrafterShape

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["shape_of"]

# Model types whose layers are q, k, v, o and a gated MLP of three matrices, and nothing else that is large. A test
# counts the weights of a real model of each type. The value: whether head_dim is hidden size / heads when left out.
_DENSE = {
    "gemma": False,
    "gemma2": False,
    "gemma3_text": False,
    "granite": True,
    "llama": True,
    "mistral": True,
    "olmo2": True,
    "phi3": True,
    "qwen2": True,
    "qwen3": False,
    "smollm3": True,
}
_N_FUSED = 3  # an EAGLE-3 head reads low, middle and high features of the target


def shape_of(config: Mapping[str, Any] | PretrainedConfig) -> DrafterShape:
    """The shape of a dense decoder or of an EAGLE-3 head.

    Tied and untied heads have the same shape: a draft step multiplies by every head row either way.

    Args:
        config: a transformers config, or the contents of ``config.json``. EAGLE-3 heads are known by
            ``speculators_model_type``, by the name of their architecture, or by ``draft_vocab_size`` beside a single
            layer, the format of its authors. Their V is the target's vocabulary, ``vocab_size``.

    Raises:
        ModelError: an architecture whose cost is not known, or a config that lacks a size.
    """
    values: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    if _is_eagle3(values):
        return _eagle3(values)
    text = values.get("text_config")  # models that also see or hear keep the decoder's sizes there
    decoder = text if isinstance(text, Mapping) else values
    return _decoder(decoder)


def _is_eagle3(values: Mapping[str, Any]) -> bool:
    if values.get("speculators_model_type") == "eagle3":
        return True
    if any("eagle3" in str(name).lower() for name in values.get("architectures") or ()):
        return True
    return values.get("draft_vocab_size") is not None and values.get("num_hidden_layers") == 1


def _eagle3(values: Mapping[str, Any]) -> DrafterShape:
    layer = values.get("transformer_layer_config")
    sizes = layer if isinstance(layer, Mapping) else values
    hidden_size = _size(sizes, "hidden_size")
    feature_size = values.get("target_hidden_size") or hidden_size
    # one attention over embedding and feature side by side, and the fusing layer in front of it
    return _decoder(sizes, attention_size=2 * hidden_size, feature_size=_N_FUSED * feature_size)


def _decoder(values: Mapping[str, Any], *, attention_size: int | None = None, feature_size: int = 0) -> DrafterShape:
    model_type = values.get("model_type")
    if model_type not in _DENSE:
        raise ModelError(
            "The cost of this architecture is not known",
            got=f"model_type {model_type!r}",
            expected=", ".join(_DENSE) + ", or an EAGLE-3 head with such a layer",
            next_step="choose the size with --objective bytes or --objective latency, which look at the model itself",
        )
    n_heads, hidden_size = _size(values, "num_attention_heads"), _size(values, "hidden_size")
    derived = hidden_size // n_heads if _DENSE[model_type] and not hidden_size % n_heads else None
    return DrafterShape(
        hidden_size=hidden_size,
        intermediate_size=_size(values, "intermediate_size"),
        n_heads=n_heads,
        n_kv_heads=_size(values, "num_key_value_heads", default=n_heads),
        head_dim=_size(values, "head_dim", default=derived),
        n_layers=_size(values, "num_hidden_layers"),
        n_rows=_size(values, "vocab_size"),
        attention_size=attention_size or hidden_size,
        feature_size=feature_size,
    )


def _size(values: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    size = values.get(name)
    if size is None:
        size = default
    if type(size) is not int or size < 1:
        raise ModelError(
            f"The config does not say the drafter's {name}",
            got=f"{name} = {size!r}",
            expected="a whole number of at least 1",
            next_step="complete the drafter's config.json, or choose the size with --objective latency",
        )
    return size
