"""A repair of vLLM 0.32.0 on CPUs, whose sampled speculative decoding emits garbage.

`expand_batch_to_tokens` gives each token the temperature, top-k and top-p of its request. Its CPU fallback converts the
output to int64 first, which makes a copy, and the C++ code fills the copy: what comes back is uninitialised memory
(vllm-project/vllm#55005). The fallback is a plain function in a table that vLLM builds when a worker starts, after the
plugins are loaded, so that another function in its place is all it takes. Other releases are left alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["FAULTY_VERSIONS", "expand_to_tokens", "repair_cpu_expand"]

FAULTY_VERSIONS = ("0.32.0",)


def repair_cpu_expand() -> bool:
    """Put `expand_to_tokens` in the place of the faulty fallback; says whether it did.

    Only in the releases named, only on CPUs. `VLLM_PLUGINS` set to the empty string keeps the whole plugin, and with it
    this repair, away.
    """
    import vllm
    from vllm.logger import init_logger
    from vllm.platforms import current_platform

    if vllm.__version__ not in FAULTY_VERSIONS or not current_platform.is_cpu():
        return False
    from vllm.utils import cpu_triton_utils

    if cpu_triton_utils._expand_kernel_impl is expand_to_tokens:
        return False
    cpu_triton_utils._expand_kernel_impl = expand_to_tokens
    init_logger("vllm.outlex").info(
        "outlex: repaired expand_batch_to_tokens of vLLM %s on CPU (vllm-project/vllm#55005); without it,"
        " temperature, top-k and top-p of speculative sampling are uninitialised memory",
        vllm.__version__,
    )
    return True


def expand_to_tokens(
    output: Tensor,
    values: Tensor,
    cu_num_tokens: Tensor,
    replace_from: float,
    replace_to: float,
    max_num_tokens: Any = None,
) -> None:
    """output[j] = values[i] for the tokens j of request i; what equals `replace_from` becomes `replace_to`.

    As a loop: `for i: output[cu[i - 1] : cu[i]] = values[i]`.

    Args:
        output: [num_tokens], filled in place.
        values: [n_requests], the dtype of `output`.
        cu_num_tokens: integers [n_requests], running sum of tokens.
        replace_from, replace_to: vLLM makes 1 of the temperature 0 of greedy requests, before it divides by it.
        max_num_tokens: of the Triton kernel that this stands in for; without effect.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    replaced = torch.where(values == replace_from, torch.full_like(values, replace_to), values)
    output.copy_(replaced.repeat_interleave(counts))
