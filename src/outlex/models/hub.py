"""Brings a model from the model hub to this machine, or says quickly why it cannot."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outlex.errors import DownloadError, ModelError, OutlexError
from outlex.models.checkpoint import check_files
from outlex.models.progress import Reporter

__all__ = ["hub_directory"]

# What a causal model needs, and nothing that would have to be unpickled.
_FILES: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"],
    "ignore_patterns": ["*/*", "consolidated*"],
}
_TIMEOUT_S = 3.0
# Endpoint -> why it could not be reached. A second model must not wait for the same timeout again.
_unreachable: dict[str, str] = {}


def hub_directory(hub_id: str, *, report: Reporter) -> Path:
    """The local snapshot of a hub model, downloaded if no complete one is here yet.

    A complete snapshot is used without asking the hub whether there is a newer one: starts are quick and
    runs stay comparable. `hf download ID` fetches a newer one.

    Raises:
        DownloadError: the hub cannot be reached, or the transfer broke off.
        ModelError: the hub has no such model, does not give it to this user, or has it only in formats that
            outlex does not load.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        local = Path(snapshot_download(hub_id, local_files_only=True, **_FILES))
        check_files(local)
        return local
    except (OSError, ValueError, OutlexError):
        pass  # not here, or the rest of an interrupted download, or no valid id: the hub's answer is clearer
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _no_network(hub_id, "HF_HUB_OFFLINE is set")
    _ask(hub_id, endpoint=constants.ENDPOINT, report=report)
    report.note(f"{hub_id}: downloading what is not here yet into {constants.HF_HUB_CACHE}")
    try:
        with _hub_bars(shown=report.has_bars):
            local = Path(snapshot_download(hub_id, **_FILES))
    except Exception as error:  # errors of the HTTP library come through, and it changes
        raise _explain(hub_id, error) from error
    check_files(local)
    return local


def _ask(hub_id: str, *, endpoint: str, report: Reporter) -> None:
    """Require that the hub answers, soon, and has the model as safetensors."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if endpoint in _unreachable:
        raise _no_network(hub_id, _unreachable[endpoint])
    report.note(f"{hub_id}: asking {endpoint}")
    try:
        # asked apart from the download, because snapshot_download would wait for an answer without limit
        info = HfApi().model_info(hub_id, timeout=_TIMEOUT_S)
    except Exception as error:
        if not isinstance(error, (HfHubHTTPError, HFValidationError)):
            _unreachable[endpoint] = _first_line(error)
        raise _explain(hub_id, error) from error
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or []):
        raise ModelError(
            f"the hub has {hub_id} only in formats that outlex does not load from there",
            expected="safetensors files",
            next_step="download a GGUF file and give its path, or choose a copy with safetensors",
        )


@contextmanager
def _hub_bars(*, shown: bool) -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _explain(hub_id: str, error: Exception) -> ModelError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"the hub does not give {hub_id} to everybody",
            got=_first_line(error),
            next_step="accept its licence on its hub page and log in with `hf auth login`",
        )
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return ModelError(
            f"the hub has no model {hub_id}",
            got=_first_line(error),
            next_step="check the spelling, or log in with `hf auth login` if it is private",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return ModelError(
            f"the hub refused {hub_id}",
            got=_first_line(error),
            next_step="try again later, or check HF_ENDPOINT and the proxy",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"no space left for {hub_id}",
            got=error,
            next_step="free some space, or set HF_HOME to a folder on a larger disk",
        )
    return _no_network(hub_id, _first_line(error))


def _no_network(hub_id: str, reason: str) -> DownloadError:
    return DownloadError(
        f"{hub_id} is not on this machine and the hub cannot be reached",
        got=reason,
        next_step="check the network, or give a local directory, a .gguf file or a catalogue name",
    )


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
