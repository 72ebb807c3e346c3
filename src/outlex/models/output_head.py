"""Takes the LM head out of a loaded model, and proves on a forward pass that it is the whole story."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from outlex.errors import ModelError
from outlex.heads.linear import LinearHead

if TYPE_CHECKING:
    from outlex.models.load import LanguageModel

__all__ = ["output_head"]

_PROBE_IDS = (1, 2, 3, 5)
_proven: WeakKeyDictionary[LanguageModel, LinearHead] = WeakKeyDictionary()


def output_head(loaded: LanguageModel) -> LinearHead:
    """The LM head of a model: tied or not, with bias, scale and softcap.

    Families differ in what happens between the matrix and the logits (Gemma caps, Cohere multiplies, Granite divides),
    and the names in their configs do not say which. So the candidates are tried against the model's own logits on a
    few tokens, and a model that matches none of them is refused rather than approximated.

    Raises:
        ModelError: no LM head, a quantised head, or logits that the head alone does not explain.
    """
    if loaded not in _proven:
        _proven[loaded] = _prove(loaded)
    return _proven[loaded]


@torch.inference_mode()
def _prove(loaded: LanguageModel) -> LinearHead:
    model: Any = loaded.model
    module = model.get_output_embeddings()
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
        kind = "none" if module is None else type(module).__name__
        raise ModelError(
            "This model's LM head cannot be used",
            got=f"{loaded.name}: {kind}",
            expected="a linear layer with floating-point weights",
            next_step="quantised heads cannot be sliced exactly; load the model without quantisation of the LM head",
        )
    bias = getattr(module, "bias", None)
    config = model.config.get_text_config()
    softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    scale = float(getattr(config, "logits_scaling", None) or getattr(config, "logit_scale", None) or 1.0)
    ids = torch.tensor([_PROBE_IDS], device=loaded.device) % weight.shape[0]
    wanted = model(input_ids=ids, use_cache=False).logits[0]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    for candidate in dict.fromkeys((1.0, scale, 1.0 / scale)):
        head = LinearHead(
            weight=weight.detach(),
            bias=None if bias is None else bias.detach(),
            scale=candidate,
            softcap=softcap,
        )
        if _same(head.logits(hidden), wanted):
            return head
    raise ModelError(
        "The logits of this model are not its LM head applied to its last hidden state",
        got=f"{loaded.name} ({model.config.model_type})",
        expected="scale · (W h + b), with or without softcap",
        next_step="report the model type; outlex refuses it rather than change its law",
    )


def _same(got: Tensor, wanted: Tensor) -> bool:
    if got.shape != wanted.shape:
        return False
    tolerance = 1e-4 if wanted.dtype == torch.float32 else 2e-2
    return bool((got.float() - wanted.float()).abs().max() <= tolerance * wanted.float().abs().max())
