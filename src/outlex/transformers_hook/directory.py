"""What the `generate.py` of an exported directory calls: all arguments of `generate`, and the draft vocabulary."""

from __future__ import annotations

import json
from typing import Any

import torch

from outlex.drafters.trimmed import trim
from outlex.errors import InputError
from outlex.models.language_model import LanguageModel
from outlex.models.load import load_model
from outlex.transformers_hook.hook import Speculative
from outlex.vocab.sub_vocab import SubVocab

__all__ = ["generate_with"]

_hooks: dict[tuple[Any, ...], Speculative] = {}  # drafters that were loaded, for the next call


def generate_with(model: Any, vocab: str, *, drafter: Any, draft_len: int, seed: int | None, **arguments: Any) -> Any:
    """Generate with a trimmed drafter.

    transformers hands a directory's function everything that `generate` was given, before it has prepared anything; so
    this goes back to `generate`, with a callable.

    Args:
        model: the target.
        vocab: the sub-vocabulary, JSON of its parts.
        drafter: what `load_model` takes, or a `LanguageModel`.
        draft_len, seed: as in `speculative`.
        arguments: of `generate`. `tokenizer` serves stop strings and the check that vocabulary and target fit.

    Raises:
        InputError: something that our loop does not do; the message names it.
        MismatchError: target, drafter and vocabulary do not belong together.
    """
    streamer, tokenizer = arguments.pop("streamer", None), arguments.pop("tokenizer", None)
    if arguments.pop("assistant_model", None) is not None:
        raise InputError(
            "Drafts come from the directory's drafter",
            got="assistant_model",
            expected="drafter=, if it lies in another place",
            next_step="leave assistant_model out",
        )
    if (stop_strings := arguments.pop("stop_strings", None)) is not None:
        arguments["stopping_criteria"] = _with_stop_strings(arguments.get("stopping_criteria"), stop_strings, tokenizer)
    if not isinstance(drafter, LanguageModel):
        drafter = _loaded(drafter, model)
    key = (id(drafter), vocab, draft_len)
    if key not in _hooks:
        _hooks.clear()  # one drafter at a time: they are large
        parts = json.loads(vocab)
        tensors = {name: torch.tensor(values, dtype=torch.int64) for name, values in parts["tensors"].items()}
        _hooks[key] = Speculative(
            drafter,
            trimmed=trim(drafter, SubVocab.from_parts(parts["config"], tensors)),
            proposal=None,
            draft_len=draft_len,
            tokenizer=tokenizer,
            streamer=None,
            seed=None,
        )
    given = {name: value for name, value in arguments.items() if value is not None}
    return model.generate(custom_generate=_hooks[key].with_request(streamer=streamer, seed=seed), **given)


_drafters: dict[tuple[Any, ...], LanguageModel] = {}


def _loaded(source: Any, model: Any) -> LanguageModel:
    key = (str(source), model.dtype, model.device)
    if key not in _drafters:
        _drafters.clear()
        _drafters[key] = load_model(source, dtype=model.dtype, device=model.device, progress=False)
    return _drafters[key]


def _with_stop_strings(criteria: Any, stop_strings: Any, tokenizer: Any) -> Any:
    from transformers import StoppingCriteriaList, StopStringCriteria

    if tokenizer is None:
        raise InputError(
            "Stop strings need the tokenizer",
            got="stop_strings without tokenizer",
            expected="tokenizer=, as transformers wants it as well",
            next_step="pass tokenizer=tokenizer to generate",
        )
    return StoppingCriteriaList([*(criteria or ()), StopStringCriteria(tokenizer, stop_strings)])
