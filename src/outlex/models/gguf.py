"""Turns a GGUF file into a transformers directory, once.

The work runs in a process of its own (`outlex.models.gguf_worker`): unpacking takes several times the memory
of the result, and memory that a process has touched seldom goes back to the system before its end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from outlex.errors import ArtifactError, InputError, ModelError
from outlex.models.cache import exclusive, file_sha256, make_folder
from outlex.models.progress import Reporter

__all__ = ["convert_gguf", "finished_conversion", "require_gguf"]

# Raise it whenever the worker writes something else from the same file: old conversions are then made again.
CONVERTER_VERSION = 1
_MAGIC = b"GGUF"
# The worker sees the modules that this process sees, whatever the working directory holds.
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from outlex.models.gguf_worker import main; main()"


def require_gguf() -> None:
    """Refuse early when the packages for GGUF files are missing.

    Raises:
        ModelError: names the command that installs them.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            "GGUF files need packages that are not installed",
            got=f"missing: {', '.join(missing)}",
            next_step="pip install 'outlex[gguf]'",
        )


def finished_conversion(name: str, *, sha256: str, out_dir: Path, dtype: torch.dtype) -> Path | None:
    """The directory that an earlier `convert_gguf` made of these contents, if it is there."""
    directory = out_dir / _key(name, sha256=sha256, dtype=dtype)
    # the rename into place is the last step of a conversion: a directory that is there is complete
    return directory if directory.is_dir() else None


def convert_gguf(
    path: str | os.PathLike[str],
    *,
    out_dir: Path,
    dtype: torch.dtype,
    sha256: str | None = None,
    name: str | None = None,
    progress: bool = True,
) -> Path:
    """A transformers directory (config, safetensors, tokenizer) with the unpacked weights of a GGUF file.

    Args:
        path: the GGUF file; it is only read.
        out_dir: folder that holds all conversions; this one's subfolder is named after contents, dtype and
            converter.
        dtype: of the weights written.
        sha256: of the file if it is known; None computes it.
        name: beginning of the subfolder's name; None takes the file's.
        progress: whether to say on stderr what is being done.

    Returns:
        The directory. It appears whole or not at all, and later calls return it at once.

    Raises:
        ModelError: the packages are missing, or transformers cannot load this kind of GGUF file.
        ArtifactError: the file is truncated or no GGUF file, or the disk is full.
        InputError: a dtype that checkpoints do not have.
    """
    source = Path(path).expanduser().absolute()
    _check_magic(source)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InputError(
            "a GGUF file cannot be unpacked to this dtype",
            got=dtype,
            expected="float32, float16 or bfloat16",
            next_step="use float32",
        )
    name = name or source.stem
    sha256 = sha256 or file_sha256(source)
    found = finished_conversion(name, sha256=sha256, out_dir=out_dir, dtype=dtype)
    if found is not None:
        return found
    require_gguf()
    report = Reporter(enabled=progress)
    key = _key(name, sha256=sha256, dtype=dtype)
    with exclusive(out_dir.parent / "locks" / f"{key}.lock", what=f"converting {name}", report=report):
        found = finished_conversion(name, sha256=sha256, out_dir=out_dir, dtype=dtype)
        if found is not None:
            return found
        make_folder(out_dir)
        for leftover in out_dir.glob(f".{key}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=out_dir))
        try:
            with report.stages(f"converting {name}") as stage:
                _run_worker(
                    {"gguf": str(source), "out": str(work), "dtype": str(dtype).removeprefix("torch.")},
                    on_stage=stage,
                    on_warning=lambda warning: report.note(f"{name}: {warning}"),
                )
            os.replace(work, out_dir / key)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return out_dir / key


def _key(name: str, *, sha256: str, dtype: torch.dtype) -> str:
    safe_name = re.sub(r"[^\w.-]", "_", name).lstrip(".")
    return f"{safe_name}-{sha256[:16]}-{str(dtype).removeprefix('torch.')}-v{CONVERTER_VERSION}"


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(_MAGIC))
    except OSError as error:
        raise ArtifactError(
            "the GGUF file cannot be read", got=error, next_step="check the path and its permissions"
        ) from error
    if magic != _MAGIC:
        raise ArtifactError(
            "not a GGUF file",
            got=f"{path} begins with {magic!r}",
            expected=f"{_MAGIC!r}",
            next_step="download the file again, or give a file that llama.cpp can read",
        )


def _run_worker(job: dict[str, str], *, on_stage: Callable[[str], None], on_warning: Callable[[str], None]) -> None:
    command = [sys.executable, "-c", _BOOT, json.dumps([p for p in sys.path if p]), json.dumps(job)]
    # nothing of the conversion needs the network, and it should not try
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        )
        failure: dict[str, Any] | None = None
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                message = json.loads(line)
                if "stage" in message:
                    on_stage(message["stage"])
                if "warning" in message:
                    on_warning(message["warning"])
                failure = message.get("error", failure)
            code = worker.wait()
        except BaseException:
            worker.kill()
            worker.wait()
            raise
        finally:
            if worker.stdout is not None:
                worker.stdout.close()
        if failure is not None:
            kind = failure.pop("kind")
            raise (ArtifactError if kind == "ArtifactError" else ModelError)(**failure)
        if code != 0:
            raise _crash(job["gguf"], code=code, log=log)


def _crash(path: str, *, code: int, log: IO[bytes]) -> ModelError:
    log.seek(0)
    lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
    was_killed = code in (-9, 137)
    return ModelError(
        "the process that converts the GGUF file was killed, most likely because memory ran out"
        if was_killed
        else "the process that converts the GGUF file failed",
        got=f"{path}: " + (lines[-1] if lines else f"exit code {code}"),
        next_step="close other programs (about five times the size of the file is needed), then run again"
        if was_killed
        else "try a newer transformers, or load the original checkpoint instead of the GGUF file",
    )
