"""A loaded causal language model with its tokenizer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from outlex.errors import InputError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LanguageModel"]

# How config classes call the longest context; the first one that is there counts.
_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A transformers model, ready to be driven: eval mode, no gradients.

    Attributes:
        model: the transformers model.
        tokenizer: its tokenizer.
        name: short, for tables.
        source: what `load_model` loads the same model by: catalogue name, absolute path or Hub id.
        dtype: in which it computes.
        device: where its weights are.

    Raises:
        ModelError: the model has no LM head.
    """

    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    name: str
    source: str
    dtype: torch.dtype
    device: torch.device

    def __post_init__(self) -> None:
        if self.model.get_output_embeddings() is None:
            raise ModelError(
                f"{self.name} has no LM head",
                got=type(self.model).__name__,
                expected="a causal language model",
                next_step="choose the causal version of this model",
            )

    @property
    def n_rows(self) -> int:
        """Rows of the LM head: tokens plus padding rows, which no tokenizer entry has."""
        head = self.model.get_output_embeddings()
        # a quantised head may keep its weight in another shape; it still says how many outputs it has
        return int(getattr(head, "out_features", None) or head.weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that go into the LM head."""
        return int(self._text_config.hidden_size)

    @property
    def max_length(self) -> int:
        """Longest context in tokens, prompt and answer together; `sys.maxsize` if nothing limits it."""
        for name in _LENGTH_NAMES:
            length = getattr(self._text_config, name, None)
            if isinstance(length, int) and length > 0:
                return length
        return sys.maxsize

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights; a tensor that is used twice (tied embeddings) counts once."""
        weights = {id(t): t.nbytes for t in self.model.state_dict(keep_vars=True).values() if torch.is_tensor(t)}
        return sum(weights.values())

    @property
    def head_bytes(self) -> int:
        """Bytes of the LM head: weight and bias."""
        return sum(t.nbytes for t in self.model.get_output_embeddings().parameters())

    @property
    def is_quantized(self) -> bool:
        """Whether the weights are stored in fewer bits than `dtype` has."""
        return getattr(self.model.config, "quantization_config", None) is not None

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a text, from generation config, model config and tokenizer together.

        Each of the three alone is known to miss some: instruct models often end a turn with another token
            than a text.
        """
        configs = (self.model.generation_config, self.model.config, self._text_config, self.tokenizer)
        return frozenset(i for c in configs for i in _as_ids(getattr(c, "eos_token_id", None)))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: special tokens spelled in it (`<|im_start|>`) become those tokens.
            add_special_tokens: whether to begin as the tokenizer wants (Gemma: with `<bos>`). False for a
                piece that goes after other text.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, ending where the model's answer begins.

        Args:
            messages: mappings with `role` (system, user, assistant) and `content`.

        Raises:
            InputError: no chat template, or messages that the template refuses.
        """
        if not self.tokenizer.chat_template:
            raise InputError(
                f"{self.name} is a base model: its tokenizer has no chat template",
                expected="an instruct or chat model",
                next_step="use encode(TEXT) with a plain prompt, or load the instruct version",
            )
        wrong = [m for m in messages if not (isinstance(m.get("role"), str) and isinstance(m.get("content"), str))]
        if not messages or wrong:
            raise InputError(
                "a conversation needs messages with a role and a content",
                got=wrong[0] if wrong else "no messages",
                expected="[{'role': 'user', 'content': '...'}]",
                next_step="give both as strings",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates are programs: they raise what they like
            raise InputError(
                f"the chat template of {self.name} refuses these messages",
                got=error,
                next_step="check the roles and their order; some templates take no system message",
            ) from error
        # the template has written the special tokens already
        return self.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids.

        Raises:
            InputError: an id that the tokenizer cannot have.
        """
        n_ids = max(self.n_rows, len(self.tokenizer))
        wrong = [i for i in ids if not 0 <= i < n_ids]
        if wrong:
            raise InputError(
                "not a token of this model",
                got=wrong[0],
                expected=f"0 to {self.n_rows - 1}",
                next_step="decode with the model that the ids came from",
            )
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return text

    @property
    def _text_config(self) -> Any:
        # models that also see or hear keep the text part's numbers in a config of its own
        return self.model.config.get_text_config()


def _as_ids(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return [value] if isinstance(value, int) else [int(i) for i in value]
