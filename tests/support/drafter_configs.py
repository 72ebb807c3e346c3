"""Configs of drafters that exist, as their `config.json` has them."""

from __future__ import annotations

from typing import Any

# The EAGLE-3 head of Llama 3.1 8B, which arXiv 2603.05210 computes with.
EAGLE3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 1,
    "vocab_size": 128256,
    "draft_vocab_size": 32000,
}
