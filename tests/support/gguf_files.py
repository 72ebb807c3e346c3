"""A tiny Llama as a GGUF file, written with the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from model_files import SPECIALS, byte_alphabet

N_LAYERS, N_DIM, N_FF, N_HEADS, N_KV = 2, 32, 48, 4, 2
# two spaces are one token, as in every real vocabulary; a tokenizer call <think> is a plain added token
TOKENS = [*SPECIALS, *byte_alphabet(), "ĠĠ", "<think>", "[PAD261]", "[PAD262]", "[PAD263]"]
TYPES = [3] * len(SPECIALS) + [1] * 257 + [4] + [5] * 3
MERGES = ["Ġ Ġ"]


def tiny_weights(*, untied: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """Random float32 weights under their GGUF names."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), N_DIM), "output_norm": (N_DIM,)}
    if untied:
        shapes["output"] = (len(TOKENS), N_DIM)
    n_kv_dim = N_DIM * N_KV // N_HEADS
    for layer in range(N_LAYERS):
        for name, shape in {
            "attn_norm": (N_DIM,),
            "attn_q": (N_DIM, N_DIM),
            "attn_k": (n_kv_dim, N_DIM),
            "attn_v": (n_kv_dim, N_DIM),
            "attn_output": (N_DIM, N_DIM),
            "ffn_norm": (N_DIM,),
            "ffn_gate": (N_FF, N_DIM),
            "ffn_up": (N_FF, N_DIM),
            "ffn_down": (N_DIM, N_FF),
        }.items():
            shapes[f"blk.{layer}.{name}"] = shape
    return {f"{name}.weight": rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    rule: str = "smollm",
    weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
    more_keys: Mapping[str, int] | None = None,
) -> Path:
    """A GGUF file with a byte-level tokenizer of 264 entries."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(N_DIM)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_DIM // N_HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(TOKENS)
    writer.add_token_types(TYPES)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    for key, value in (more_keys or {}).items():
        writer.add_uint32(key, value)
    for name, weight in (tiny_weights() if weights is None else weights).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
