"""Cutting rows out of a head: tied and untied, bias, padding, scale; and the artifact that holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model

from outlex import SubVocab, TrimmedDrafter, trim
from outlex.errors import ArtifactError, InputError, MismatchError, ModelError
from outlex.heads import FullHead, LinearHead, TrimmedHead, trim_head
from outlex.models import LanguageModel
from outlex.models.output_head import output_head
from outlex.vocab.tokenizer_facts import facts_of


def vocab_of(ids: list[int], *, n_target: int = 260) -> SubVocab:
    facts = facts_of(byte_tokenizer())
    return SubVocab(
        draft_to_target=torch.tensor(ids),
        n_target=n_target,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
        provenance={"from": "a test"},
    )


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"tied": True}),
        ("phi", {}),  # its head has a bias
        ("gemma2", {"tied": True, "final_logit_softcapping": 5.0}),
        ("cohere", {"tied": True, "logit_scale": 0.25}),
        ("granite", {"logits_scaling": 8.0}),
    ],
    ids=str,
)
def test_trimmed_logits_are_the_models_own_at_the_kept_rows(family: str, settings: dict[str, Any]) -> None:
    loaded = tiny_model(family=family, **settings)
    ids, model = [200, 3, 256, 77], loaded.model
    prompt = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        wanted = model(prompt).logits[0]
        hidden = model.get_decoder()(prompt).last_hidden_state[0]
        scores = trim(loaded, vocab_of(ids)).head_for(loaded, n_target=260).score(hidden)
    torch.testing.assert_close(scores.logits, wanted[:, ids], atol=1e-5, rtol=1e-5)
    assert scores.token_map.to_target(torch.arange(4)).tolist() == ids


def test_a_head_that_is_not_the_whole_story_is_refused() -> None:
    loaded = tiny_model()
    real = loaded.model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        out = real(*args, **kwargs)
        return SimpleNamespace(logits=out.logits + torch.arange(260))

    loaded.model.forward = shifted
    with pytest.raises(ModelError, match="are not its LM head"):
        output_head(loaded)


def test_quantised_heads_are_refused_with_the_reason() -> None:
    loaded = tiny_model()
    head = loaded.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="quantis"):
        output_head(loaded)
    with pytest.raises(InputError, match="quantis"):
        LinearHead(weight=head.weight.detach())


def test_full_heads_know_the_targets_width() -> None:
    linear = output_head(tiny_model(n_rows=260))
    hidden = torch.randn(2, 32)
    for n_target in (257, 260, 272):
        scores = FullHead(linear, n_target=n_target).score(hidden)
        dense = scores.token_map.scatter(scores.logits)
        assert dense.shape == (2, n_target)
        shared = min(260, n_target)
        torch.testing.assert_close(dense[:, :shared], linear.logits(hidden)[:, :shared])


def test_bytes_count_the_kept_rows() -> None:
    loaded = tiny_model(family="phi")
    trimmed = trim(loaded, vocab_of([1, 2, 3]))
    assert trimmed.linear.n_bytes == 3 * 32 * 4 + 3 * 4
    assert trimmed.head_for(loaded, n_target=260).bytes_per_step == trimmed.linear.n_bytes
    # a copy, not a view that keeps the whole matrix alive
    assert trimmed.linear.weight.untyped_storage().nbytes() == 3 * 32 * 4


def test_rows_and_map_must_fit() -> None:
    linear = output_head(tiny_model())
    with pytest.raises(MismatchError, match="rows that this head does not have"):
        trim_head(LinearHead(weight=linear.weight[:100]), vocab_of([5, 200]))
    with pytest.raises(MismatchError, match="do not fit"):
        TrimmedHead(linear, vocab_of([5, 200]))
    with pytest.raises(MismatchError, match="bias"):
        LinearHead(weight=linear.weight, bias=torch.zeros(3))


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_the_artifact_comes_back_as_it_was(tmp_path: Path, family: str) -> None:
    loaded = tiny_model(family=family)
    trimmed = trim(loaded, vocab_of([9, 8, 256]))
    trimmed.save(tmp_path / "t")
    back = TrimmedDrafter.load(tmp_path / "t")
    assert back.vocab.fingerprint == trimmed.vocab.fingerprint
    assert dict(back.vocab.provenance) == dict(trimmed.vocab.provenance)
    assert torch.equal(back.linear.weight, trimmed.linear.weight)
    assert (back.base_name, back.base_source, back.base_n_rows) == ("tiny", "/somewhere/tiny", 260)
    head = back.head_for(loaded, n_target=272)
    assert (head.linear.bias is None) == (family == "llama")
    assert head.token_map.n_target == 272


def test_a_base_loaded_in_another_dtype_is_still_the_base() -> None:
    loaded = tiny_model()
    trimmed = trim(loaded, vocab_of([9, 8, 256]))
    half = replace(loaded, model=tiny_model().model.to(torch.bfloat16), dtype=torch.bfloat16)
    assert trimmed.head_for(half, n_target=260).linear.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("what", ["weights", "width", "tokenizer"])
def test_another_base_is_refused(what: str) -> None:
    trimmed = trim(tiny_model(seed=0), vocab_of([9, 8, 256]))
    other: LanguageModel = {
        "weights": lambda: tiny_model(seed=1),
        "width": lambda: tiny_model(seed=0, n_rows=300),
        "tokenizer": lambda: replace(tiny_model(seed=0), tokenizer=_other_tokenizer()),
    }[what]()
    with pytest.raises(MismatchError) as error:
        trimmed.head_for(other, n_target=260)
    assert error.value.next_step


def _other_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(257)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1")


def test_an_artifact_of_another_kind_or_without_a_part_is_refused(tmp_path: Path) -> None:
    from outlex.artifact import write_artifact

    vocab_of([1, 2]).save(tmp_path / "vocab")
    with pytest.raises(ArtifactError, match="sub-vocab"):
        TrimmedDrafter.load(tmp_path / "vocab")
    write_artifact(tmp_path / "empty", kind="trimmed-drafter", config={}, tensors={"x": torch.zeros(1)})
    with pytest.raises(ArtifactError, match="lacks a part"):
        TrimmedDrafter.load(tmp_path / "empty")
    with pytest.raises(ArtifactError):
        TrimmedDrafter.load(tmp_path / "nothing")
