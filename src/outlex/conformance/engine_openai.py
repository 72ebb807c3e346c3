"""Any server with OpenAI's /v1/completions as a black box, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from outlex.conformance.openai_client import OpenAiClient, no_completion, refuses_fields
from outlex.errors import MismatchError, ModelError
from outlex.sampling import SamplingParams

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["OpenAiEngine"]

_AT_ONCE = 32  # outputs a request
# Tokenizers differ in one of these: digits, indentation, accents, other scripts.
_PROBE = "In 1234567 naïve steps: def f(x):\n        return x  # 漢字 und Grüße"
# A server fills in what a request leaves out, by the checkpoint's generation config (vLLM, SGLang) or its own taste
# (llama.cpp: top-k 40, min-p 0.05), and the law would be another one. -1 is "no top-k" to all three.
_NO_FILTER = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_STATE_IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}
_CUT_SHORT = ("abort", "cancelled", "content_filter", "error")


class OpenAiEngine:
    """A server (protocol `Engine`). Requests carry no seed: each output is drawn for itself.

    Prompts are sent as token ids. Which tokens came back is read from `token_ids` (vLLM, SGLang with
    `return_token_ids`), from `logprobs` with ids (vLLM's "token_id:N", llama.cpp's `id`), or else from the text: it is
    tokenised again, and refused if the server counted another number of tokens, because one text has many spellings.

    Args:
        client: of the server.
        model: as the server calls it, see `OpenAiClient.served_model`.
        target: the reference's model, for its tokenizer and stop tokens.
        dtype: in which the server computes; no server says so.

    Raises:
        ModelError: the server does not answer.
        MismatchError: it has another tokenizer; noticed where the server says how it spelled a prompt (vLLM).
    """

    def __init__(
        self,
        client: OpenAiClient,
        *,
        model: str,
        target: LanguageModel,
        dtype: str,
    ) -> None:
        self._client = client
        self._model = model
        self._target = target
        self._takes_all_fields = True
        self._wants_logprobs = False
        self.dtype = dtype
        self.n_spelled_anew = 0
        self._check_tokenizer()
        self.name = f"openai: {self._model} at {self._client.url}"

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        del seed
        outputs: list[tuple[int, ...]] = []
        while len(outputs) < n_samples:
            # usage counts the tokens of a whole request: where texts are spelled anew it has to be one output's
            n = 1 if self.n_spelled_anew or params.greedy else min(_AT_ONCE, n_samples - len(outputs))
            answer = self._complete({"prompt": list(prompt_ids), "max_tokens": max_new_tokens, "n": n}, params)
            choices = _choices(answer)
            spelled = [_stated_ids(choice) for choice in choices]
            if None in spelled and not self._wants_logprobs:
                self._wants_logprobs = True
                continue  # ask again: logprobs are another path through some engines, so they come second
            if None in spelled and n > 1:
                self.n_spelled_anew += 1
                continue  # ask again, one output a request
            for choice, ids in zip(choices, spelled, strict=True):
                own = self._spelled_anew(choice, answer.get("usage")) if ids is None else ids
                outputs.append(self._with_stop(own, choice, max_new_tokens))
        return outputs

    def _complete(self, body: dict[str, Any], params: SamplingParams) -> dict[str, Any]:
        """Ask for completions, with fields that are not of OpenAI's own interface if the server takes them."""
        filters = {
            "top_k": params.top_k or -1,
            "min_p": params.min_p,
            "repetition_penalty": params.repetition_penalty,
        }
        law = {"temperature": params.temperature, "top_p": params.top_p}
        # a filter that was asked for is sent in any case: without it the answer would be of another law
        law |= {key: value for key, value in filters.items() if value != _NO_FILTER[key]}
        asked: dict[str, Any] = {"model": self._model, **body, **law}
        if self._wants_logprobs:
            asked["logprobs"] = 1
        if self._takes_all_fields:
            try:
                return self._client.ask("/completions", {**_NO_FILTER, **_STATE_IDS, **asked})
            except ModelError as error:
                if not refuses_fields(error):
                    raise
                full = error
            try:
                answer = self._client.ask("/completions", asked)
            except ModelError:
                raise full from full.__cause__  # it was not for these fields
            self._takes_all_fields = False
            return answer
        return self._client.ask("/completions", asked)

    def _check_tokenizer(self) -> None:
        """Compare the spelling of a text, up to what a tokenizer begins texts with."""
        body = {"prompt": _PROBE, "max_tokens": 1, "n": 1}
        stated: Any = _choices(self._complete(body, SamplingParams(temperature=0.0)))[0].get("prompt_token_ids")
        own = self._target.encode(_PROBE, add_special_tokens=False)
        if not _are_ids(stated) or stated[-len(own) :] == own:
            return
        raise MismatchError(
            "The server has another tokenizer than the target, so it serves another model",
            got=f"{len(stated)} tokens, {stated[:6]} …, for {_PROBE[:23]!r} …",
            expected=f"{len(own)} tokens, {own[:6]} …, as {self._target.name} spells it",
            next_step="give the model that the server loaded as --target",
        )

    def _with_stop(self, ids: list[int], choice: dict[str, Any], max_new_tokens: int) -> tuple[int, ...]:
        """The stop token was drawn like any other; some servers do not return it."""
        ended = choice.get("finish_reason")
        if ended in _CUT_SHORT:
            raise ModelError(
                "The server cut an output short",
                got=f"finish_reason {ended!r} after {len(ids)} tokens",
                expected="stop or length",
                next_step="look into the server's log, and switch off whatever filters its outputs",
            )
        if ended != "stop" or len(ids) >= max_new_tokens:
            return tuple(ids)
        reason = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM, SGLang: the token, or a stop string
        stop_ids = [reason] if type(reason) is int else sorted(self._target.stop_ids)
        if isinstance(reason, str) or (ids and ids[-1] in stop_ids):
            return tuple(ids)
        if len(stop_ids) == 1:
            return (*ids, stop_ids[0])
        raise ModelError(
            "The server ended an output and does not say with which token",
            got=f"{len(ids)} of {max_new_tokens} tokens",
            expected=f"one of {stop_ids} as its last token",
            next_step="serve the model with an engine that returns token ids, or ask for fewer tokens an output",
        )

    def _spelled_anew(self, choice: dict[str, Any], usage: Any) -> list[int]:
        self.n_spelled_anew += 1
        text = choice.get("text")
        if not isinstance(text, str):
            raise no_completion(choice, "a choice with a text")
        ids = self._target.encode(text, add_special_tokens=False)
        stated = usage.get("completion_tokens") if isinstance(usage, dict) else None
        ended = choice.get("finish_reason") == "stop"
        if stated is None or not len(ids) <= stated <= len(ids) + ended or self._target.decode(ids) != text:
            raise ModelError(
                "The server returns text only, and this one cannot be traced back to its tokens",
                got=f"{text!r:.60}: {len(ids)} tokens here, {'no count' if stated is None else stated} there",
                expected="token ids, or a text whose tokens are as many as the server counted",
                next_step="use a server that states ids, such as vLLM or llama.cpp, or check --temperature 0 alone",
            )
        return ids


def _choices(answer: dict[str, Any]) -> list[dict[str, Any]]:
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and all(isinstance(choice, dict) for choice in choices):
        return choices
    raise no_completion(answer, "a list of choices")


def _stated_ids(choice: dict[str, Any]) -> list[int] | None:
    """The ids a choice states, in any of the known ways; None if it states none."""
    if _are_ids(choice.get("token_ids")):
        return list(choice["token_ids"])
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return None
    content = logprobs.get("content")
    if isinstance(content, list):
        ids: list[Any] = [entry.get("id") if isinstance(entry, dict) else None for entry in content]
        return ids if _are_ids(ids) else None
    tokens = logprobs.get("tokens")
    if isinstance(tokens, list) and tokens and all(str(token).startswith("token_id:") for token in tokens):
        parts = [str(token).partition(":")[2] for token in tokens]
        return [int(part) for part in parts] if all(part.isdigit() for part in parts) else None
    return None


def _are_ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and bool(value) and all(type(i) is int and i >= 0 for i in value)
