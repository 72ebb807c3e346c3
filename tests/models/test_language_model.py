"""What a loaded model says about itself, and text in and out of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_files import N_ROWS, N_TOKENS, save_tokenizer, tiny_config

from outlex.errors import InputError, ModelError
from outlex.models import LanguageModel

END_OF_TEXT, START, END = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


def build(tokenizer: Any, config: Any) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name="toy",
        source="toy",
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="module")
def toy(tokenizer: Any) -> LanguageModel:
    return build(tokenizer, tiny_config())


def test_sizes_of_an_untied_model(toy: LanguageModel) -> None:
    per_layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32
    assert toy.n_bytes == 4 * (2 * N_ROWS * 32 + 2 * per_layer + 32)
    assert toy.head_bytes == 4 * N_ROWS * 32
    assert (toy.n_rows, toy.hidden_size, toy.max_length) == (N_ROWS, 32, 128)
    assert not toy.is_quantized


def test_a_tied_tensor_counts_once(tokenizer: Any, toy: LanguageModel) -> None:
    tied = build(tokenizer, tiny_config(tie_word_embeddings=True))
    assert tied.n_bytes == toy.n_bytes - toy.head_bytes
    assert tied.head_bytes == toy.head_bytes


def test_a_bias_belongs_to_the_head(tokenizer: Any) -> None:
    from transformers import PhiConfig

    config = PhiConfig(
        vocab_size=N_ROWS, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    assert build(tokenizer, config).head_bytes == 4 * (N_ROWS * 32 + N_ROWS)


def test_numbers_of_a_config_with_a_text_part(toy: LanguageModel) -> None:
    text = SimpleNamespace(hidden_size=7, max_position_embeddings=99, eos_token_id=[5, 6])
    config = SimpleNamespace(get_text_config=lambda: text, eos_token_id=3)
    head = torch.nn.Linear(7, 11)
    model: Any = SimpleNamespace(config=config, get_output_embeddings=lambda: head, generation_config=None)
    nested = replace(toy, model=model)
    assert (nested.hidden_size, nested.max_length, nested.n_rows) == (7, 99, 11)
    assert nested.stop_ids == {3, 5, 6, END}
    for name, length in (("n_positions", 12), ("max_seq_len", 13)):
        del text.__dict__[next(key for key in text.__dict__ if "hidden" not in key and "eos" not in key)]
        setattr(text, name, length)
        assert nested.max_length == length
    del text.max_seq_len
    assert nested.max_length == sys.maxsize


@pytest.mark.parametrize(
    ("generation_eos", "config_eos", "wanted"),
    [
        (None, None, {END}),
        ([7, 8], 9, {7, 8, 9, END}),
        (torch.tensor([4, 5]), [6], {4, 5, 6, END}),
        (0, 0, {0, END}),
    ],
)
def test_stop_ids_are_those_of_all_three(
    tokenizer: Any, generation_eos: Any, config_eos: Any, wanted: set[int]
) -> None:
    model = build(tokenizer, tiny_config(eos_token_id=config_eos))
    model.model.generation_config.eos_token_id = generation_eos
    assert model.stop_ids == wanted


def test_a_model_without_a_head_is_refused(toy: LanguageModel) -> None:
    from transformers import AutoModel

    with pytest.raises(ModelError, match="causal version"):
        replace(toy, model=AutoModel.from_config(tiny_config()))


@given(text=st.text(max_size=50))
def test_text_comes_back(toy: LanguageModel, text: str) -> None:
    ids = toy.encode(text)
    assert all(0 <= i < N_TOKENS for i in ids)
    assert toy.decode(ids, skip_special=False) == text


def test_special_tokens_in_text(toy: LanguageModel) -> None:
    ids = toy.encode("<|im_start|>a<|im_end|>")
    assert (ids[0], len(ids), ids[-1]) == (START, 3, END)
    assert toy.decode(ids) == "a"
    assert toy.decode(ids, skip_special=False) == "<|im_start|>a<|im_end|>"
    assert toy.encode("") == []
    assert toy.decode([]) == ""


def test_a_conversation_ends_where_the_answer_begins(toy: LanguageModel) -> None:
    ids = toy.encode_chat([{"role": "user", "content": "hé"}])
    written = "<|im_start|>user\nhé<|im_end|>\n<|im_start|>assistant\n"
    assert toy.decode(ids, skip_special=False) == written
    assert ids == toy.encode(written)


@pytest.mark.parametrize(
    ("messages", "remedy"),
    [
        ([], "as strings"),
        ([{"role": "user"}], "as strings"),
        ([{"role": "user", "content": None}], "as strings"),
        ([{"role": "system", "content": "be brief"}], "no system message"),
    ],
)
def test_messages_that_cannot_be_used(toy: LanguageModel, messages: Any, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        toy.encode_chat(messages)
    assert remedy in (caught.value.next_step or "")


def test_the_reason_of_the_template_is_passed_on(toy: LanguageModel) -> None:
    with pytest.raises(InputError, match="no system here"):
        toy.encode_chat([{"role": "system", "content": "x"}])


def test_a_base_model_has_no_conversations(toy: LanguageModel, tmp_path_factory: Any) -> None:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("base")
    save_tokenizer(directory, chat_template=None)
    base = replace(toy, tokenizer=AutoTokenizer.from_pretrained(directory))
    with pytest.raises(InputError, match="instruct version"):
        base.encode_chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize("ids", [[-1], [3, N_ROWS]])
def test_ids_that_no_token_has(toy: LanguageModel, ids: list[int]) -> None:
    with pytest.raises(InputError, match=f"0 to {N_ROWS - 1}"):
        toy.decode(ids)


def test_a_padding_row_decodes_to_nothing(toy: LanguageModel) -> None:
    assert toy.decode([N_ROWS - 1]) == ""
