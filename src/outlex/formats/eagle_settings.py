"""What `config.json` says about an EAGLE drafter, in the spelling of each program that writes one.

    speculators     sizes in `transformer_layer_config`, the layers it reads in `eagle_aux_hidden_state_layer_ids`
    EAGLE-3         sizes at the top; layers in `eagle_config`, if anywhere (SafeAILab, SpecForge, ModelOpt, Automodel)
    EAGLE           sizes at the top; it reads the last layer

Numbers of layers: speculators and vLLM count the embedding as 0, as transformers' `output_hidden_states` and outlex
do. `eagle_config` counts the first layer's output as 0 (SGLang, ModelOpt), one less. Where nothing is said, EAGLE-3
reads 2, n/2 and n − 3, counted as transformers does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from outlex.eagle.config import EagleConfig, FeatureNorm, TargetIdentity
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.formats.source import Source
from outlex.models.catalogue import CATALOGUE

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["is_eagle3", "is_speculators", "own_section", "settings_of", "written_settings"]

_OWN_SECTION = "outlex"
_LAYER_TYPES = ("llama", "qwen2", "qwen3")
_AUX = "eagle_aux_hidden_state_layer_ids"


def is_speculators(source: Source) -> bool:
    """Whether the speculators library, or `save_eagle`, wrote it."""
    return "speculators_model_type" in source.config


def is_eagle3(source: Source) -> bool:
    """Whether it is EAGLE-3 rather than EAGLE."""
    if is_speculators(source):
        return bool(source.config["speculators_model_type"] == "eagle3")
    return "draft_vocab_size" in source.config or "eagle_config" in source.config or source.has_tensor("d2t")


def settings_of(
    source: Source,
    *,
    has_part: Callable[[str], bool],
    n_draft: int | None,
    target: LanguageModel | None,
) -> EagleConfig:
    """The config of a checkpoint, and of the target it belongs to.

    Args:
        source: its directory.
        has_part: whether it has a tensor of that name, in the spelling of `EagleModule.named_parts`.
        n_draft: draft tokens of its map; None if it covers the whole vocabulary.
        target: the target that is to be used; None believes the checkpoint.

    Raises:
        MismatchError: it was made for another target.
        ArtifactError: a layer that outlex does not compute, or settings that contradict each other.
    """
    layer = _layer_config(source)
    kind = "eagle3" if is_eagle3(source) else "eagle"
    attention = "layers.0.self_attn."
    # Qwen2 has biases, but not of the output; the others have all four or none
    all_biases = bool(getattr(layer, "attention_bias", False)) and layer.model_type != "qwen2"
    identity = _identity(source, layer, target)
    try:
        return EagleConfig(
            kind=kind,  # type: ignore[arg-type]
            target=identity,
            feature_layers=_feature_layers(source, identity) if kind == "eagle3" else _last(source, identity),
            hidden_size=layer.hidden_size,
            intermediate_size=layer.intermediate_size,
            n_heads=layer.num_attention_heads,
            n_kv_heads=layer.num_key_value_heads,
            head_dim=getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads,
            norm_eps=layer.rms_norm_eps,
            rope=dict(layer.rope_parameters),
            max_length=layer.max_position_embeddings,
            qkv_bias=all_biases or layer.model_type == "qwen2" or has_part(f"{attention}q_proj.bias"),
            o_bias=all_biases or has_part(f"{attention}o_proj.bias"),
            fc_bias=bool(source.config.get("fusion_bias")) or has_part("fc.bias"),
            qk_norm=layer.model_type == "qwen3",
            n_draft=n_draft,
            has_own_embedding=has_part("embed_tokens.weight"),
            has_own_head=has_part("lm_head.weight"),
            residual_is_normed=bool(source.config.get("norm_before_residual")),
            feature_norm=_feature_norm(source),
            feeds_back_normed=bool(source.config.get("norm_output")),
        )
    except InputError as error:
        raise ArtifactError(
            f"The settings of {source.path} make no EAGLE drafter",
            got=error.got,
            expected=error.expected,
            next_step="correct its config.json, or take the checkpoint from its source again",
        ) from error


def written_settings(
    config: EagleConfig, *, verifier: str | None, dtype: str, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """`config.json` as speculators reads it, with a section of outlex's own: the target, and where it comes from."""
    target = config.target
    if verifier is None and target.source is not None:
        verifier = CATALOGUE[target.source].hub_id if target.source in CATALOGUE else target.source
    layer = {
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": target.n_rows,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": dict(config.rope),
        "max_position_embeddings": config.max_length,
        "attention_bias": config.qkv_bias or config.o_bias,
        "tie_word_embeddings": False,
    }
    settings: dict[str, Any] = {
        "architectures": ["Eagle3Speculator" if config.kind == "eagle3" else "EagleSpeculator"],
        "speculators_model_type": config.kind,
        "transformer_layer_config": layer,
        "dtype": dtype,
        "tie_word_embeddings": False,
        "speculators_config": {
            "algorithm": config.kind,
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 4}],
            "verifier": {"name_or_path": verifier, "architectures": []},
        },
        _OWN_SECTION: {"target": vars(target).copy(), "provenance": dict(provenance)},
    }
    if config.kind == "eagle":
        return settings | {"layernorms": False, "fusion_bias": config.fc_bias}
    return settings | {
        _AUX: list(config.feature_layers),
        "draft_vocab_size": config.n_draft or target.n_rows,
        "target_hidden_size": target.hidden_size,
        "norm_before_residual": config.residual_is_normed,
        "norm_before_fc": config.feature_norm == "joint",
        "fc_norm": config.feature_norm == "each",
        "norm_output": config.feeds_back_normed,
    }


def _layer_config(source: Source) -> Any:
    """The settings of its layer with transformers' defaults for what is left out."""
    from transformers import AutoConfig

    stored = source.config.get("transformer_layer_config") if is_speculators(source) else source.config
    stored = stored if isinstance(stored, dict) else {}
    kind = stored.get("model_type", "llama")
    refused: object = None
    if kind not in _LAYER_TYPES:
        refused = f"model_type {kind!r:.40}"
    elif stored.get("num_hidden_layers", 1) != 1:
        refused = f"{stored['num_hidden_layers']!r:.20} layers"
    elif stored.get("hidden_act", "silu") != "silu" or stored.get("mlp_bias"):
        refused = f"hidden_act {stored.get('hidden_act')!r:.40}, mlp_bias {stored.get('mlp_bias')!r:.20}"
    elif "sliding_attention" in (stored.get("layer_types") or ()):
        refused = "a sliding window"
    elif source.config.get("layernorms"):
        refused = "the extra norms of HASS (layernorms)"
    if refused is not None:
        raise ArtifactError(
            f"The layer of {source.path} is not one that outlex computes",
            got=refused,
            expected=f"one layer of {', '.join(_LAYER_TYPES)}, silu, no bias in the MLP, no sliding window",
            next_step="run this drafter in the engine it was made for, or train one with examples/train_drafter",
        )
    skipped = ("model_type", "architectures", "auto_map")
    try:
        return AutoConfig.for_model(kind, **{key: value for key, value in stored.items() if key not in skipped})
    except Exception as error:  # validators of transformers raise what they like
        raise ArtifactError(
            f"The settings of the layer of {source.path} cannot be used",
            got=f"{type(error).__name__}: {error}".partition("\n")[0][:200],
            expected=f"the settings of a {kind} model",
            next_step="correct config.json",
        ) from error


def own_section(source: Source) -> dict[str, Any]:
    """What outlex wrote for itself; empty in checkpoints of other programs.

    Raises:
        ArtifactError: it is no section.
    """
    own = source.config.get(_OWN_SECTION)
    if own is not None and not isinstance(own, dict):
        raise _damaged(source, f"{own!r:.60}", "a section of config.json")
    return own or {}


def _identity(source: Source, layer: Any, target: LanguageModel | None) -> TargetIdentity:
    stored = own_section(source).get("target")
    if stored is not None:
        try:
            said = TargetIdentity(**stored)
        except TypeError as error:
            raise _damaged(source, str(error)[:120], ", ".join(TargetIdentity.__dataclass_fields__)) from error
    else:
        section = source.config.get("speculators_config")
        verifier = section.get("verifier") if isinstance(section, dict) else None
        name = verifier.get("name_or_path") if isinstance(verifier, dict) else None
        said = TargetIdentity(
            name=str(name or "its target"),
            source=name,
            hidden_size=source.config.get("target_hidden_size") or layer.hidden_size,
            n_rows=layer.vocab_size,
        )
    sizes = (said.hidden_size, said.n_rows, 1 if said.n_layers is None else said.n_layers)
    words = (said.name, said.source or "", said.tokenizer_fingerprint or "")
    if not all(type(size) is int and size > 0 for size in sizes) or not all(isinstance(word, str) for word in words):
        raise _damaged(source, f"{vars(said)!r:.200}", "sizes above 0, and names")
    if target is None:
        return said
    said.check(target)
    return TargetIdentity.of(target)


def _damaged(source: Source, got: str, expected: str) -> ArtifactError:
    return ArtifactError(
        f"What {source.path} says about its target is damaged",
        got=got,
        expected=expected,
        next_step=f"save the drafter again; if it is the section {_OWN_SECTION!r}, take the section out of config.json",
    )


def _last(source: Source, target: TargetIdentity) -> tuple[int, ...]:
    return (_known_layers(source, target),)


def _feature_layers(source: Source, target: TargetIdentity) -> tuple[int, ...]:
    section = source.config.get("eagle_config")
    shifted = section.get(_AUX) if isinstance(section, dict) else None
    plain = source.config.get(_AUX)
    for ids in (plain, shifted):
        if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
            raise ArtifactError(
                f"{_AUX} in {source.path} holds no numbers of layers",
                got=f"{ids!r:.60}",
                expected="a list such as [2, 15, 27]",
                next_step="correct config.json",
            )
    if plain:
        return tuple(plain)
    if shifted:
        return tuple(i + 1 for i in shifted)
    n = _known_layers(source, target)
    return (2, n // 2, n - 3)


def _known_layers(source: Source, target: TargetIdentity) -> int:
    if target.n_layers is None:
        raise MismatchError(
            f"{source.path} does not say how many layers its target has",
            expected="the target, loaded",
            next_step="give the target: --target MODEL, or load_eagle(PATH, target=load_model(TARGET)) in Python",
        )
    return target.n_layers


def _feature_norm(source: Source) -> FeatureNorm:
    joint, each = bool(source.config.get("norm_before_fc")), bool(source.config.get("fc_norm"))
    if joint and each:
        raise ArtifactError(
            f"{source.path} asks for two norms of the features at once",
            got="norm_before_fc and fc_norm",
            expected="one of them",
            next_step="correct config.json",
        )
    return "joint" if joint else "each" if each else "none"
