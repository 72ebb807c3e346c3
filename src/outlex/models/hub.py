"""Brings a model from the model hub to this machine, or says quickly why it cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from outlex.errors import DownloadError, ModelError, OutlexError
from outlex.models.checkpoint import check_files
from outlex.models.progress import Reporter

__all__ = ["hub_directory"]

# What a causal model needs, and nothing that would have to be unpickled.
_WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"]
_UNWANTED = ["*/*", "consolidated*"]
_CONNECT_TIMEOUT_S = 3.0
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
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        local = Path(snapshot_download(hub_id, local_files_only=True))
        check_files(local)
        return local
    except (OSError, OutlexError):
        pass  # not here, or the rest of an interrupted download
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _no_network(hub_id, "HF_HUB_OFFLINE is set")
    endpoint = constants.ENDPOINT
    if endpoint in _unreachable:
        raise _no_network(hub_id, _unreachable[endpoint])
    report.note(f"{hub_id}: asking {endpoint}")
    try:
        local = Path(
            snapshot_download(
                hub_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, etag_timeout=_CONNECT_TIMEOUT_S
            )
        )
    except Exception as error:  # the client lets errors of its HTTP library through, and that library changes
        failure = _explain(hub_id, error)
        if isinstance(error, LocalEntryNotFoundError) and isinstance(failure, DownloadError):
            _unreachable[endpoint] = _first_line(error)
        raise failure from error
    check_files(local)
    return local


def _explain(hub_id: str, error: Exception) -> ModelError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return ModelError(
            f"the hub does not give {hub_id} to everybody",
            got=_first_line(error),
            next_step="accept its licence on its hub page and log in with `hf auth login`",
        )
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return ModelError(
            f"the hub has no model {hub_id}",
            got=_first_line(error),
            next_step="check the spelling, or log in with `hf auth login` if it is private",
        )
    if isinstance(error.__cause__, HfHubHTTPError) or isinstance(error, HfHubHTTPError):
        status = error if isinstance(error, HfHubHTTPError) else error.__cause__
        return ModelError(
            f"the hub refused {hub_id}",
            got=_first_line(status),
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
