"""What a call of `model.generate` asks for, in outlex's terms; whatever our loop cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.sampling import SamplingParams

__all__ = ["check_request", "params_of"]

# What `generate` itself puts among the arguments of every model
_OWN_ARGUMENTS = {"attention_mask", "position_ids", "logits_to_keep", "use_cache", "past_key_values"}
# Setting -> the one value that leaves it off
_OFF: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "penalty_alpha": None,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "cache_implementation": None,
}


def params_of(processors: Sequence[Any], *, do_sample: bool) -> SamplingParams:
    """The law that transformers' logits processors define.

    Read from the processors that `generate` has built, rather than from its settings: what is not understood cannot be
    overlooked. Their order (penalty, temperature, top-k, top-p, min-p) is that of `outlex.sampling`.

    Raises:
        InputError: a processor that outlex does not know, or in another order.
    """
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    # exact types: a subclass may do something else
    attribute_of = {
        RepetitionPenaltyLogitsProcessor: ("repetition_penalty", "penalty"),
        TemperatureLogitsWarper: ("temperature", "temperature"),
        TopKLogitsWarper: ("top_k", "top_k"),
        TopPLogitsWarper: ("top_p", "top_p"),
        MinPLogitsWarper: ("min_p", "min_p"),
    }
    order = list(attribute_of)
    law: dict[str, Any] = {}
    last = -1
    for processor in processors:
        kind = type(processor)
        known = kind in attribute_of and getattr(processor, "prompt_ignore_length", None) is None
        if not known or order.index(kind) <= last:
            raise InputError(
                "outlex cannot take this logits processor into its law",
                got=kind.__name__,
                expected=", ".join(one.__name__ for one in order) + ", each once and in this order",
                next_step="leave it out, or call generate without custom_generate",
            )
        last = order.index(kind)
        name, attribute = attribute_of[kind]
        law[name] = getattr(processor, attribute)
    if not do_sample:
        law["temperature"] = 0.0
    return SamplingParams(**law)


def check_request(
    model: Any, input_ids: Tensor, generation_config: Any, model_kwargs: Mapping[str, Any], *, synced_gpus: bool
) -> list[int]:
    """The prompt's ids, if our loop can do what is asked.

    Raises:
        InputError: names what it cannot do.
    """
    settings = {name: getattr(generation_config, name, off) for name, off in _OFF.items()}
    wrong = [f"{name}={value}" for name, value in settings.items() if value is not None and value != _OFF[name]]
    if input_ids.shape[0] != 1:
        wrong.append(f"a batch of {input_ids.shape[0]} prompts")
    if synced_gpus:
        wrong.append("synced_gpus")
    if model.training:
        wrong.append("a model in training mode")
    if model_kwargs.get("use_cache") is False:
        wrong.append("use_cache=False")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        wrong.append("past_key_values that hold tokens")
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        wrong.append("an attention_mask with zeros (padding)")
    positions = model_kwargs.get("position_ids")
    if positions is not None and not torch.equal(
        positions[0].cpu(), torch.arange(input_ids.shape[1], dtype=positions.dtype)
    ):
        wrong.append("position_ids other than 0, 1, 2 …")
    wrong += [
        name
        for name, value in model_kwargs.items()
        if name not in _OWN_ARGUMENTS and value is not None and value is not False
    ]
    if wrong:
        raise InputError(
            "outlex's loop cannot do this inside generate",
            got=", ".join(wrong),
            expected="one prompt, one output, sampled or greedy, from token ids alone",
            next_step="leave it out, or call generate without custom_generate",
        )
    ids: list[int] = input_ids[0].tolist()
    return ids
