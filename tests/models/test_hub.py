"""The model hub, played by a small server on this machine: whole models, refusals, silence."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_files import save_tiny_checkpoint

COMMIT = "a" * 40
PROGRAM = """
import json, sys, time
from outlex.errors import OutlexError
from outlex.models.hub import hub_directory
from outlex.models.progress import Reporter
answers = []
for hub_id in sys.argv[1:]:
    began = time.monotonic()
    try:
        found = hub_directory(hub_id, report=Reporter(enabled=True))
        answer = {"files": sorted(path.name for path in found.iterdir())}
    except OutlexError as error:
        answer = {"kind": type(error).__name__, "text": str(error)}
    answers.append({**answer, "seconds": time.monotonic() - began})
print(json.dumps(answers))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves `folder` as org/good; other names stand for what can go wrong."""

    protocol_version = "HTTP/1.1"
    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        parts = path.strip("/").split("/")
        name = parts[3] if parts[:2] == ["api", "models"] else parts[1] if len(parts) > 3 else ""
        files = {file.name: file for file in self.folder.iterdir()}
        if name == "pickled":
            files = {"config.json": files["config.json"], "pytorch_model.bin": files["config.json"]}
        if name == "partial":
            del files["tokenizer.json"]
        refusal = {"gated": (403, "GatedRepo"), "none": (404, "RepoNotFound"), "broken": (500, "")}.get(name)
        if refusal:
            self.answer(b"", status=refusal[0], headers={"X-Error-Code": refusal[1]})
        elif "tree" in parts:
            entries = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": n.encode().hex()[:40]}
                for n, f in files.items()
            ]
            self.answer(json.dumps(entries).encode())
        elif name and parts[0] == "api":
            info = {"id": f"org/{name}", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
            self.answer(json.dumps(info).encode())
        elif "resolve" in parts:
            tag = f'"{name}-{parts[-1]}"'
            self.answer(files[parts[-1]].read_bytes(), headers={"ETag": tag, "X-Repo-Commit": COMMIT})
        else:
            self.answer(b"", status=404)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not on stderr."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    folder = save_tiny_checkpoint(tmp_path / "served")
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    handler = type("Handler", (Hub,), {"folder": folder, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(endpoint: str, *hub_ids: str, home: Path, **variables: str) -> tuple[list[dict[str, Any]], str]:
    """Run `hub_directory` in a process of its own: the client reads its settings when it is imported."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    proxies = {k: "" for k in keep if k.lower() in ("http_proxy", "https_proxy", "all_proxy")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *hub_ids],
        env={**keep, **proxies, **settings, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers, done.stderr


def test_models_and_refusals(hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    names = ("good", "good", "gated", "none", "broken", "pickled", "partial")
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    answers, said = ask(endpoint, *(f"org/{name}" for name in names), home=tmp_path / "hf")
    good, again, gated, none, broken, pickled, partial = answers
    whole = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"]
    assert good["files"] == [*whole, "tokenizer.json", "tokenizer_config.json"]
    assert again["files"] == good["files"]
    assert said.count("org/good: asking") == 1  # the second time the snapshot is here
    assert "%|" not in said  # no bars in a log
    for answer, kind, remedy in (
        (gated, "ModelError", "accept its licence"),
        (none, "ModelError", "check the spelling"),
        (broken, "ModelError", "try again later"),
        (pickled, "ModelError", "safetensors"),
        (partial, "ArtifactError", "tokenizer"),
    ):
        assert answer["kind"] == kind
        assert remedy in answer["text"]


def test_a_complete_snapshot_needs_no_network(hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    ask(endpoint, "org/good", "org/partial", home=tmp_path / "hf")
    answers, _ = ask(endpoint, "org/good", "org/partial", home=tmp_path / "hf", HF_HUB_OFFLINE="1")
    assert "config.json" in answers[0]["files"]
    assert answers[1]["kind"] == "DownloadError"
    assert "HF_HUB_OFFLINE" in answers[1]["text"]


def test_a_hub_that_is_silent_costs_seconds_and_only_once(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        answers, said = ask(endpoint, "org/one", "org/two", home=tmp_path / "hf")
    assert time.monotonic() - began < 60
    assert [answer["kind"] for answer in answers] == ["DownloadError"] * 2
    assert "catalogue name" in answers[0]["text"]
    assert answers[0]["seconds"] < 15
    assert answers[1]["seconds"] < 1
    assert said.count("asking") == 1
