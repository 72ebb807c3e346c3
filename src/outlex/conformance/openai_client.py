"""JSON over HTTP with a server that has OpenAI's interface, and what its failures mean."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from outlex.errors import InputError, ModelError

__all__ = ["OpenAiClient", "no_completion", "refuses_fields"]


class OpenAiClient:
    """One server.

    Args:
        base_url: such as http://127.0.0.1:8000/v1.
        api_key: sent as a bearer token.
        timeout_s: for one request.

    Raises:
        InputError: not an http address.
    """

    def __init__(self, base_url: str, *, api_key: str | None, timeout_s: float) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputError(
                "This is no address of a server",
                got=base_url,
                expected="such as http://127.0.0.1:8000/v1",
                next_step="give the part before /completions as --base-url",
            )
        self.url = base_url.rstrip("/")
        self._key = api_key
        self._timeout_s = timeout_s

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """GET, or POST where there is a body.

        Raises:
            ModelError: no server, a refusal, a failure, or no JSON object.
        """
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            self.url + path, data=None if body is None else json.dumps(body).encode(), headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                value = json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = error.read(500).decode("utf-8", "replace").strip()
            error.close()
            raise ModelError(
                f"The server {'refused' if error.code < 500 else 'failed at'} {path}",
                got=f"HTTP {error.code}: {said:.300}",
                next_step=_remedy(error.code),
            ) from error
        except (OSError, HTTPException, ValueError) as error:  # HTTPException: it hung up in the middle of an answer
            raise ModelError(
                f"The server does not answer {path}",
                got=f"{type(error).__name__}: {error}",
                expected=f"JSON within {self._timeout_s:g} s",
                next_step="check that it runs (its log says why it ended) and that --base-url ends as its"
                " documentation says, often with /v1; --timeout gives it longer",
            ) from error
        if not isinstance(value, dict):
            raise no_completion(value, "a JSON object")
        return value

    def served_model(self, name: str | None) -> str:
        """What the server calls the model that is meant.

        Args:
            name: None takes the only one that it serves.

        Raises:
            ModelError: it does not answer, does not serve this model, or serves several.
        """
        names = [str(entry.get("id")) for entry in self.ask("/models").get("data", [])]
        if name is None and len(names) == 1:
            return names[0]
        if name is not None and (name in names or not names):
            return name
        raise ModelError(
            "The server does not say which model is meant" if name is None else f"The server does not serve {name}",
            got=", ".join(names[:5]) or "no list of models",
            next_step=f"give the name the server uses: --served-model {names[0] if names else 'NAME'}",
        )


def refuses_fields(error: ModelError) -> bool:
    """Whether a server said that it does not take a request like this: a field it does not know, for one."""
    cause = error.__cause__
    return isinstance(cause, urllib.error.HTTPError) and cause.code in (400, 422)


def no_completion(value: Any, expected: str) -> ModelError:
    """The error for an answer that is something else."""
    return ModelError(
        "The server's answer is not one of the completions interface",
        got=f"{value!r:.200}",
        expected=expected,
        next_step="check that --base-url points at an OpenAI-compatible server",
    )


def _remedy(code: int) -> str:
    if code in (401, 403):
        return "put the server's key into OPENAI_API_KEY"
    if code == 404:
        return "check --base-url, which often ends with /v1, and --served-model"
    if code >= 500:
        return "look into the server's log: an engine that has died answers everything like this"
    return "check that --target is the model that it serves, and that prompts fit its context"
