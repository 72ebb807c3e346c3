"""Real transformers models of a few kilobytes, with a tokenizer of one token a byte."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from outlex.models.language_model import LanguageModel

END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@cache
def byte_tokenizer() -> Any:
    """One token a byte, an end token, and a chat template: 257 entries."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(
    *,
    name: str = "tiny",
    seed: int = 0,
    family: str = "llama",
    n_rows: int = 260,
    n_layers: int = 2,
    tied: bool = False,
    sharpness: float = 15.0,
    **settings: Any,
) -> LanguageModel:
    """A random model in float32.

    Args:
        name: its name.
        seed: of the weights; the global generator is left as it was.
        family: transformers model type: llama, qwen2, gemma2, gemma3_text, cohere, granite, phi, mamba ...
        n_rows: of the LM head; the tokenizer has 257 entries.
        n_layers: layers.
        tied: whether embedding and LM head are one matrix.
        sharpness: the LM head is multiplied by it, so that laws are far from uniform and arg-maxes far from ties.
        settings: anything else for the config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": n_rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "eos_token_id": byte_tokenizer().eos_token_id,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    config = AutoConfig.for_model(family, **{**sizes, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    model.get_output_embeddings().weight.mul_(sharpness)
    return LanguageModel(
        model=model,
        tokenizer=byte_tokenizer(),
        name=name,
        source=f"/somewhere/{name}",
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@cache
def tiny_pair() -> tuple[LanguageModel, LanguageModel]:
    """A target, and a drafter that agrees with it now and then: the target without its last layer."""
    target = tiny_model(name="tiny-target", seed=1)
    drafter = tiny_model(name="tiny-drafter", seed=1, n_layers=1)
    theirs = dict(target.model.state_dict())
    drafter.model.load_state_dict({key: theirs[key] for key in drafter.model.state_dict()})
    return target, drafter
