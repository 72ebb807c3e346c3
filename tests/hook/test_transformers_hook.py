"""Our loop inside `model.generate`: the same tokens, streamers and criteria honoured, the rest refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_builders import run
from tiny_models import byte_tokenizer, tiny_model, tiny_pair

from outlex import SamplingParams, SpeculativeDecoder, SubVocab, TrimmedDrafter, trim
from outlex.errors import InputError, MismatchError, ModelError
from outlex.transformers_hook import Speculative, speculative
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.tokenizer_facts import facts_of

PROMPT = [10, 20, 30]
END = byte_tokenizer().eos_token_id


def trimmed() -> TrimmedDrafter:
    _, drafter = tiny_pair()
    vocab = SubVocab.from_ranking(
        range(0, 257, 2),
        size=100,
        facts=facts_of(drafter.tokenizer),
        n_target=260,
        must_keep=MustKeep(reasons={"stop": (END,)}),
        provenance={},
    )
    return trim(drafter, vocab)


def hook(**settings: Any) -> Speculative:
    _, drafter = tiny_pair()
    return speculative(drafter, **{"trimmed": trimmed(), "tokenizer": byte_tokenizer(), "draft_len": 3, **settings})


def generate(custom: Any = None, **arguments: Any) -> Any:
    target, _ = tiny_pair()
    given = {"input_ids": torch.tensor([PROMPT]), "max_new_tokens": 20, "eos_token_id": None, "pad_token_id": 0}
    model: Any = target.model
    return model.generate(**{**given, **arguments}, custom_generate=custom)


@pytest.mark.parametrize(
    "settings", [{}, {"repetition_penalty": 1.3}, {"eos_token_id": 77}, {"max_length": 9}], ids=str
)
def test_greedy_output_is_that_of_generate(settings: dict[str, Any]) -> None:
    if "max_length" in settings:
        settings = {**settings, "max_new_tokens": None}
    own, theirs = generate(hook(), do_sample=False, **settings), generate(do_sample=False, **settings)
    assert own.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"top_k": 0}, SamplingParams()),
        (
            {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
            SamplingParams(temperature=0.7, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
        ),
    ],
    ids=["plain", "every filter"],
)
def test_sampled_output_is_that_of_our_loop(settings: dict[str, Any], params: SamplingParams) -> None:
    target, drafter = tiny_pair()
    decoder = SpeculativeDecoder(target, drafter, trimmed=trimmed(), draft_len=3)
    for seed in range(3):
        ours = decoder.generate(PROMPT, max_new_tokens=20, params=params, seed=seed, ignore_stop_ids=True)
        got = generate(hook(seed=seed), do_sample=True, **settings)
        assert got[0, 3:].tolist() == list(ours.token_ids)


def test_transformers_own_default_filter_is_part_of_the_law() -> None:
    # top_k is 50 where nobody says otherwise; a hook that missed it would be another law than generate's
    target, drafter = tiny_pair()
    decoder = SpeculativeDecoder(target, drafter, trimmed=trimmed(), draft_len=3)
    ours = decoder.generate(PROMPT, max_new_tokens=20, params=SamplingParams(top_k=50), seed=1, ignore_stop_ids=True)
    assert generate(hook(seed=1), do_sample=True)[0, 3:].tolist() == list(ours.token_ids)


def test_the_global_generator_decides_where_no_seed_is_given() -> None:
    custom, outputs = hook(), []
    with torch.random.fork_rng():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(generate(custom, do_sample=True, top_k=0).tolist())
    assert outputs[0] == outputs[1] != outputs[2]


class _Streamer:
    def __init__(self) -> None:
        self.pieces: list[list[int]] = []
        self.ended = False

    def put(self, ids: torch.Tensor) -> None:
        self.pieces.append(ids.flatten().tolist())

    def end(self) -> None:
        self.ended = True


def test_a_streamer_gets_the_prompt_and_every_token_once() -> None:
    streamer = _Streamer()
    out = generate(hook(streamer=streamer), do_sample=False)
    assert streamer.pieces[0] == PROMPT
    assert [i for piece in streamer.pieces for i in piece] == out[0].tolist()
    assert len(streamer.pieces) < 21  # blocks, not single tokens
    assert streamer.ended


def test_stopping_criteria_end_the_text_at_the_token_that_they_watch_for() -> None:
    from transformers import StoppingCriteriaList

    whole = generate(do_sample=False)[0].tolist()
    stop_at = whole[9]
    first = whole.index(stop_at, 3)

    def stops(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        found: torch.Tensor = input_ids[:, -1] == stop_at
        return found

    criteria: Any = StoppingCriteriaList([stops])
    assert generate(hook(), do_sample=False, stopping_criteria=criteria)[0].tolist() == whole[: first + 1]


def test_a_dictionary_is_returned_if_it_is_asked_for() -> None:
    out = generate(hook(), do_sample=False, return_dict_in_generate=True)
    assert out.sequences.tolist() == generate(do_sample=False).tolist()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences=2"),
        ({"input_ids": torch.tensor([PROMPT, PROMPT])}, "a batch of 2 prompts"),
        ({"output_scores": True}, "output_scores=True"),
        ({"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor"),
        ({"min_new_tokens": 3, "eos_token_id": 5}, "MinLengthLogitsProcessor"),
        ({"do_sample": True, "typical_p": 0.5}, "TypicalLogitsWarper"),
        ({"attention_mask": torch.tensor([[0, 1, 1]])}, "attention_mask"),
        ({"use_cache": False}, "use_cache=False"),
        ({"num_beams": 2}, "num_beams=2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_our_loop_cannot_do_is_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as refused:
        generate(hook(), **arguments)
    assert named in str(refused.value)
    assert "without custom_generate" in str(refused.value)


def test_a_logits_processor_of_the_users_own_is_refused() -> None:
    from transformers import LogitsProcessor, LogitsProcessorList

    class Own(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores

    with pytest.raises(InputError, match="Own"):
        generate(hook(), logits_processor=LogitsProcessorList([Own()]))


def test_drafters_and_tokenizers_that_are_missing_or_wrong() -> None:
    with pytest.raises(InputError, match="nothing to draft with") as refused:
        speculative()
    assert 'speculative("qwen05")' in str(refused.value)
    with pytest.raises(ModelError, match="tokenizer") as unknown:
        generate(hook(tokenizer=None))
    assert "tokenizer=tokenizer" in str(unknown.value)
    with pytest.raises(MismatchError, match="cut from other weights"):
        generate(speculative(tiny_model(seed=9), trimmed=trimmed(), tokenizer=byte_tokenizer()))


def test_an_exported_directory_is_loaded_by_transformers(
    models: Path, trimmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = run("export", trimmed, "--to", "hf", "-o", tmp_path / "hub")
    assert result.exit_code == 0, result.stderr
    assert "trust_remote_code=True" in result.stdout
    model: Any = AutoModelForCausalLM.from_pretrained(models / "target", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(models / "target")
    inputs = tokenizer("the mill and the", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    plain = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)
    streamer = _Streamer()
    given = {"custom_generate": str(tmp_path / "hub"), "trust_remote_code": True, "pad_token_id": 0}
    got = model.generate(**inputs, **given, max_new_tokens=12, do_sample=False, streamer=streamer)
    assert got.tolist() == plain.tolist()
    assert [i for piece in streamer.pieces for i in piece] == plain[0].tolist()
    # stop strings and a seed, which callables never see
    text = tokenizer.decode(plain[0, inputs["input_ids"].shape[1] :])
    stopped = model.generate(
        **inputs, **given, max_new_tokens=12, do_sample=False, stop_strings=[text[2:4]], tokenizer=tokenizer
    )
    assert inputs["input_ids"].shape[1] < stopped.shape[1] <= plain.shape[1]
    twice = [model.generate(**inputs, **given, max_new_tokens=12, do_sample=True, seed=4).tolist() for _ in range(2)]
    assert twice[0] == twice[1]
    with pytest.raises(InputError, match="Stop strings need"):
        model.generate(**inputs, **given, max_new_tokens=4, stop_strings=["x"])


def test_what_does_not_fit_into_a_directory_is_refused(trimmed: Path, tmp_path: Path) -> None:
    result = run("export", trimmed, "--to", "hf", "--n-target", 999, "-o", tmp_path / "hub")
    assert result.exit_code == 2
    assert "--n-target" in result.stderr
    assert not (tmp_path / "hub").exists()
