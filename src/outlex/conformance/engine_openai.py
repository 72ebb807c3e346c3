"""Any server with OpenAI's /v1/completions as a black box, over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from outlex.errors import InputError, ModelError
from outlex.sampling import SamplingParams

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["OpenAiEngine"]

_AT_ONCE = 32  # outputs a request


class OpenAiEngine:
    """A server (protocol `Engine`). Requests carry no seed: each output is drawn for itself.

    Prompts are sent as token ids. Which tokens came back is read from `token_ids` (vLLM, SGLang with
    `return_token_ids`), from `logprobs` with ids (vLLM's "token_id:N", llama.cpp's `id`), or else from the text: it is
    tokenised again, and refused if the server counted another number of tokens, because one text has many spellings.

    Args:
        base_url: such as http://127.0.0.1:8000/v1.
        model: as the server calls it.
        target: the reference's model, for its tokenizer and stop tokens.
        dtype: in which the server computes; no server says so.
        api_key: sent as a bearer token.
        timeout_s: for one request.

    Raises:
        InputError: not an http address.
        ModelError: the server does not answer, or does not serve this model.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        target: LanguageModel,
        dtype: str,
        api_key: str | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputError(
                "This is no address of a server",
                got=base_url,
                expected="such as http://127.0.0.1:8000/v1",
                next_step="give the part before /completions as --base-url",
            )
        self._url = base_url.rstrip("/")
        self._model = model
        self._target = target
        self._key = api_key
        self._timeout_s = timeout_s
        self.dtype = dtype
        self.n_spelled_anew = 0
        served = [str(entry.get("id")) for entry in self._ask("/models", None).get("data", [])]
        if served and model not in served:
            raise ModelError(
                f"The server does not serve {model}",
                got=", ".join(served[:5]),
                next_step=f"give the name the server uses: --served-model {served[0]}",
            )
        self.name = f"openai: {model} at {self._url}"

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        del seed
        outputs: list[tuple[int, ...]] = []
        while len(outputs) < n_samples:
            # usage counts the tokens of a whole request: where texts are spelled anew it has to be one output's
            n = 1 if self.n_spelled_anew or params.greedy else min(_AT_ONCE, n_samples - len(outputs))
            body: dict[str, Any] = {
                "model": self._model,
                "prompt": list(prompt_ids),
                "max_tokens": max_new_tokens,
                "temperature": params.temperature,
                "top_p": params.top_p,
                "n": n,
                "logprobs": 1,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            }
            # not of OpenAI's own interface: only sent where they say something
            extras = {"top_k": params.top_k, "min_p": params.min_p}
            body |= {key: value for key, value in extras.items() if value}
            if params.repetition_penalty != 1.0:
                body["repetition_penalty"] = params.repetition_penalty
            answer = self._ask("/completions", body)
            choices = answer.get("choices")
            if not isinstance(choices, list) or not choices:
                raise self._nonsense(answer, "a list of choices")
            spelled = [_stated_ids(choice) for choice in choices]
            if None in spelled and n > 1:
                self.n_spelled_anew += 1
                continue  # ask again, one output a request
            for choice, ids in zip(choices, spelled, strict=True):
                own = self._spelled_anew(choice, answer.get("usage")) if ids is None else ids
                outputs.append(self._with_stop(own, choice, max_new_tokens))
        return outputs

    def _with_stop(self, ids: list[int], choice: dict[str, Any], max_new_tokens: int) -> tuple[int, ...]:
        """The stop token was drawn like any other; some servers do not return it."""
        stop_ids = sorted(self._target.stop_ids)
        if choice.get("finish_reason") != "stop" or len(ids) >= max_new_tokens or (ids and ids[-1] in stop_ids):
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
            raise self._nonsense(choice, "a choice with a text")
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

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            self._url + path, data=None if body is None else json.dumps(body).encode(), headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                value = json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = error.read(500).decode("utf-8", "replace").strip()
            error.close()
            raise ModelError(
                f"The server refused {path}",
                got=f"HTTP {error.code}: {said:.300}",
                next_step="check --base-url, --served-model and, if the server wants one, OPENAI_API_KEY",
            ) from error
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The server does not answer {path}",
                got=f"{type(error).__name__}: {error}",
                expected=f"JSON within {self._timeout_s:g} s",
                next_step="check that it runs and that --base-url ends as its documentation says, often with /v1",
            ) from error
        if not isinstance(value, dict):
            raise self._nonsense(value, "a JSON object")
        return value

    @staticmethod
    def _nonsense(value: Any, expected: str) -> ModelError:
        return ModelError(
            "The server's answer is not one of the completions interface",
            got=f"{value!r:.200}",
            expected=expected,
            next_step="check that --base-url points at an OpenAI-compatible server",
        )


def _stated_ids(choice: Any) -> list[int] | None:
    """The ids a choice states, in any of the known ways; None if it states none."""
    if not isinstance(choice, dict):
        return None
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


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int and i >= 0 for i in value)
