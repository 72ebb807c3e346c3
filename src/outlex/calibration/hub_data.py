"""Data sets of the model hub, read file by file over the network, without keeping copies.

The files are read like local ones, so that a count can go on after a kill exactly where it was: a stream of records
that another library makes has no places to go on from.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from outlex.calibration.corpus import CorpusFile, format_of
from outlex.calibration.opening import HUB_SCHEME
from outlex.errors import DownloadError, InputError

__all__ = ["hub_files"]

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
# The hub itself writes every public data set as Parquet to this branch, as CONFIG/SPLIT/NUMBER.parquet.
_PARQUET_BRANCH = "refs/convert/parquet"
_TRAIN = "train"


def hub_files(name: str, *, source: int, filesystem: Any = None) -> list[CorpusFile]:
    """The files of a data set. Their hashes are kept, so that a change between two runs is noticed.

    Taken are the Parquet files that the hub makes of every public data set. A data set without them is searched for
    files of a known format that have the split in their path.

    Args:
        name: ``OWNER/NAME[/CONFIG][:SPLIT]``; the split is "train" if it is left out.
        source: index of the source.
        filesystem: of the hub; None is huggingface_hub's.

    Raises:
        InputError: no such data set, configuration or split.
        DownloadError: the hub cannot be reached.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            "This is not the name of a data set",
            got=repr(name),
            expected="hub:OWNER/NAME, hub:OWNER/NAME/CONFIG, either with :SPLIT",
            next_step="take the name from the data set's page",
        )
    repo, config, split = match["repo"], match["config"], match["split"] or _TRAIN
    if filesystem is None:
        from huggingface_hub import HfFileSystem

        filesystem = HfFileSystem()
    try:
        found = _converted(filesystem, repo, config, split) or _own_files(filesystem, repo, config, split)
    except InputError:
        raise
    except Exception as error:  # errors of the HTTP library come through, and it changes
        raise _unreachable(name, error) from error
    return [
        CorpusFile(
            source=source,
            path=path,
            format=format_,
            compression=compression,
            n_bytes=int(info.get("size") or 0),
            identity=str(info.get("blob_id") or info.get("sha256") or info.get("size")),
        )
        for path, info in found
        for format_, compression in [format_of(path)]
        if format_ is not None
    ]


_Found = list[tuple[str, dict[str, Any]]]


def _converted(filesystem: Any, repo: str, config: str | None, split: str) -> _Found:
    """Files of the branch with Parquet, one configuration of them."""
    infos = _listing(filesystem, repo, _PARQUET_BRANCH)
    by_config: dict[str, dict[str, _Found]] = {}
    for inside, path, info in infos:
        parts = inside.split("/")
        if len(parts) == 3 and parts[2].endswith(".parquet"):
            splits = by_config.setdefault(parts[0], {})
            splits.setdefault(parts[1].removeprefix("partial-"), []).append((path, info))
    if not by_config:
        return []
    chosen = config or ("default" if "default" in by_config else next(iter(by_config)) if len(by_config) == 1 else None)
    if chosen not in by_config:
        raise _no_such(repo, "configuration", config, list(by_config), f"hub:{repo}/CONFIG")
    if split not in by_config[chosen]:
        raise _no_such(repo, "split", split, list(by_config[chosen]), f"hub:{repo}/{chosen}:SPLIT")
    return by_config[chosen][split]


def _own_files(filesystem: Any, repo: str, config: str | None, split: str) -> _Found:
    infos = [entry for entry in _listing(filesystem, repo, "main") if format_of(entry[0])[0] not in (None, "text")]
    wanted = [word for word in (config, split) if word]
    found = [(path, info) for inside, path, info in infos if all(word in inside for word in wanted)]
    if not found:
        names = [inside for inside, _, _ in infos]
        raise _no_such(repo, "file with this split in its path", " ".join(wanted), names, f"hub:{repo}:SPLIT")
    return found


def _listing(filesystem: Any, repo: str, revision: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Path in the repository, URL and facts of every file of a revision, in the order of their paths."""
    root = f"datasets/{repo}"
    try:
        found: dict[str, dict[str, Any]] = filesystem.find(f"{root}@{quote(revision, safe='')}", detail=True)
    except FileNotFoundError:
        return []
    listing = []
    for path, info in sorted(found.items()):
        inside = path.removeprefix(root)
        if inside.startswith("@"):
            inside = inside[1:].removeprefix(revision).removeprefix(quote(revision, safe=""))
        listing.append((inside.lstrip("/"), HUB_SCHEME + path, info))
    return listing


def _no_such(repo: str, what: str, got: str | None, names: list[str], spelling: str) -> InputError:
    return InputError(
        f"The data set {repo} has no such {what}, or none was chosen" if names else f"The hub has no data set {repo}",
        got=got,
        expected=", ".join(names)[:300] or None,
        next_step=f"choose one: {spelling}" if names else "check the spelling, or log in with `hf auth login`",
    )


def _unreachable(name: str, error: Exception) -> DownloadError:
    lines = str(error).strip().splitlines()
    return DownloadError(
        f"The data set {name} cannot be listed",
        got=f"{type(error).__name__}: {lines[0] if lines else ''}",
        next_step="check the network, or download its files and give their folder",
    )
