"""Repairs what the way through GGUF loses of a tokenizer and of the list of stop tokens.

A GGUF file holds the vocabulary, the merges and the *name* of the rule that splits text before merging.
transformers knows some of these names; for the others it falls back to the rule of GPT-2, and the text then
becomes other tokens than the ones the model was trained on, without any error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["end_ids", "repair_tokenizer"]

# Byte-level tokenizers that cut every digit off on its own before GPT-2's rule: "  12" must keep its two
# spaces together.
_SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
# Published with Unicode normalisation (NFC), of which GGUF says nothing.
_NFC = {"qwen2", "deepseek-r1-qwen"}
_GPT2_RULE = {"default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"}
# What families call the tokens after which nothing follows; a file names only one or two of them.
_END_NAMES = {
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_CONTROL = 3


def repair_tokenizer(tokenizer: PreTrainedTokenizerBase, *, metadata: Mapping[str, Any]) -> str | None:
    """Put back what the file says or its family is known to have. Changes `tokenizer` in place.

    Args:
        tokenizer: as transformers built it from the file.
        metadata: the file's keys and values.

    Returns:
        A warning if the splitting rule is one that neither transformers nor this function knows.
    """
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    rule = metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        return None
    if rule in _SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif rule not in _GPT2_RULE and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return f"the rule {rule!r} for splitting text is not known here: tokens may differ from the original's"
    if rule in _NFC:
        backend.normalizer = normalizers.NFC()
    return None


def end_ids(metadata: Mapping[str, Any], *, tokens: Sequence[str], token_types: Sequence[int]) -> list[int]:
    """Ids of all tokens that end a text, the file's own end token first.

    Args:
        metadata: the file's keys and values.
        tokens: spelling of each id.
        token_types: the file's type number of each id.
    """
    named = [metadata[f"tokenizer.ggml.{key}"] for key in _END_KEYS if f"tokenizer.ggml.{key}" in metadata]
    spelled = [
        i
        for i, (token, kind) in enumerate(zip(tokens, token_types, strict=False))
        if kind == _CONTROL and token in _END_NAMES
    ]
    return [int(i) for i in dict.fromkeys(named + spelled)]
