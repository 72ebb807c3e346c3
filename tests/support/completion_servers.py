"""Servers with OpenAI's interface, of every kind of answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Any]


def _says_nothing(body: dict[str, Any]) -> Any:
    return {"choices": [{"text": ""}]}


@contextmanager
def server(
    answer: Answer, *, models: Any = None, to_text: Answer = _says_nothing
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers completions with `answer(body)`; the bodies it got are kept.

    Args:
        answer: a JSON value, bytes as they are, or (status, value).
        models: what /models says, in place of a list with "tiny".
        to_text: the answer to prompts that are text; their bodies are not kept.
    """
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, models if models is not None else {"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if isinstance(body["prompt"], str):
                value = to_text(body)
            else:
                asked.append(body)
                value = answer(body)
            self._send(*value) if isinstance(value, tuple) else self._send(200, value)

        def _send(self, code: int, value: Any) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            # what ends before its length is a server that died
            self.send_header("Content-Length", str(1000 if data == b"{" else len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}/v1", asked
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
