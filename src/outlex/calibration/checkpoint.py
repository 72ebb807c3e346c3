"""What a counting run has done so far, in one file that is replaced as a whole: the sums, and which blocks are in them.

Sums and blocks are written together, so a run that goes on after a kill adds each block exactly once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from outlex.atomic import make_directories, replace_file, sync_directory
from outlex.calibration.counting import MAX_DOMAINS, TaskCounts, too_many_domains
from outlex.calibration.encoding import Ids
from outlex.calibration.faults import Fault
from outlex.errors import ArtifactError

__all__ = ["FileProgress", "Progress", "RunningSums", "read_checkpoint", "write_checkpoint"]

_SCHEMA = 1
_KEY = "outlex"
_N_FAULTS_KEPT = 5


@dataclass(kw_only=True)
class FileProgress:
    """How much of a file is counted.

    Attributes:
        n_done: blocks from the first on without a gap.
        end, end_line: where the block after those begins.
        beyond: blocks that are counted already although one before them is not: where each ends.
        n_blocks: how many the file has, once it has been read to its end.
    """

    n_done: int = 0
    end: int = 0
    end_line: int = 1
    beyond: dict[int, tuple[int, int]] = field(default_factory=dict)
    n_blocks: int | None = None


class Progress:
    """Which blocks of which files are counted."""

    def __init__(self) -> None:
        self._open: dict[int, FileProgress] = {}
        self._finished: set[int] = set()

    def of(self, file: int) -> FileProgress:
        """The progress of a file that is not finished."""
        return self._open.get(file, FileProgress())

    def is_finished(self, file: int) -> bool:
        """Whether all blocks of the file are counted."""
        return file in self._finished

    def is_counted(self, file: int, ordinal: int) -> bool:
        """Whether a block of an unfinished file is counted."""
        found = self.of(file)
        return ordinal < found.n_done or ordinal in found.beyond

    def mark(self, file: int, ordinal: int, end: int, end_line: int) -> None:
        """Note that a block, and so far not more than once, is in the sums."""
        found = self._open.setdefault(file, FileProgress())
        found.beyond[ordinal] = (end, end_line)
        while found.n_done in found.beyond:
            found.end, found.end_line = found.beyond.pop(found.n_done)
            found.n_done += 1
        self._close(file, found)

    def set_n_blocks(self, file: int, n_blocks: int) -> None:
        """Note how many blocks the file has."""
        found = self._open.setdefault(file, FileProgress())
        found.n_blocks = n_blocks
        self._close(file, found)

    def _close(self, file: int, found: FileProgress) -> None:
        if found.n_blocks == found.n_done:
            del self._open[file]
            self._finished.add(file)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "finished": sorted(self._finished),
            "open": [
                [
                    file,
                    found.n_done,
                    found.end,
                    found.end_line,
                    found.n_blocks,
                    [[k, *v] for k, v in found.beyond.items()],
                ]
                for file, found in self._open.items()
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """What `to_json` made."""
        progress = cls()
        progress._finished = set(value["finished"])
        for file, n_done, end, end_line, n_blocks, beyond in value["open"]:
            progress._open[file] = FileProgress(
                n_done=n_done,
                end=end,
                end_line=end_line,
                n_blocks=n_blocks,
                beyond={ordinal: (at, line) for ordinal, at, line in beyond},
            )
        return progress


class RunningSums:
    """The sums of a run.

    Attributes:
        counts, documents: int64 ``[n_entries]`` by domain.
        n_documents: by domain.
        n_faults: unusable records by source and reason.
        faults: the first few of them that were seen.
        n_bytes: of text encoded.
        n_tokens: in all domains.
        n_cut: records encoded in pieces.
    """

    def __init__(self, n_entries: int) -> None:
        self.n_entries = n_entries
        self.counts: dict[str, Ids] = {}
        self.documents: dict[str, Ids] = {}
        self.n_documents: Counter[str] = Counter()
        self.n_faults: Counter[tuple[int, str]] = Counter()
        self.faults: list[str] = []
        self.n_bytes = 0
        self.n_tokens = 0
        self.n_cut = 0

    def add(self, found: TaskCounts, *, domain_field: str) -> None:
        """Add what came of a task.

        Raises:
            InputError: the records name more domains than fit in memory.
        """
        for domain, sums in found.domains.items():
            if domain not in self.counts:
                if len(self.counts) == MAX_DOMAINS:
                    raise too_many_domains(domain_field)
                self.counts[domain] = np.zeros(self.n_entries, dtype=np.int64)
                self.documents[domain] = np.zeros(self.n_entries, dtype=np.int64)
            self.counts[domain][sums.ids] += sums.counts
            self.documents[domain][sums.ids] += sums.documents
            self.n_documents[domain] += sums.n_documents
            self.n_tokens += int(sums.counts.sum())
        self.n_faults.update(found.n_faults)
        for fault in found.faults:
            self._keep(fault)
        self.n_bytes += found.n_bytes
        self.n_cut += found.n_cut

    def add_fault(self, source: int, fault: Fault) -> None:
        """Add a fault that no task has seen."""
        self.n_faults[source, fault.reason] += 1
        self._keep(fault)

    def _keep(self, fault: Fault) -> None:
        if len(self.faults) < _N_FAULTS_KEPT:
            self.faults.append(str(fault))


def write_checkpoint(path: Path, *, identity: Mapping[str, Any], progress: Progress, sums: RunningSums) -> None:
    """Replace the checkpoint.

    Args:
        path: of the file.
        identity: JSON object that says what is being counted, and how.
        progress: which blocks ``sums`` holds.
        sums: the sums.

    Raises:
        ArtifactError: the disk refuses; an older checkpoint is still whole.
    """
    from safetensors.numpy import save

    domains = sorted(sums.counts)
    empty = np.zeros((0, sums.n_entries), dtype=np.int64)
    tensors = {
        "counts": np.stack([sums.counts[name] for name in domains]) if domains else empty,
        "documents": np.stack([sums.documents[name] for name in domains]) if domains else empty,
    }
    body = {
        "schema": _SCHEMA,
        "identity": dict(identity),
        "progress": progress.to_json(),
        "domains": domains,
        "n_documents": [sums.n_documents[name] for name in domains],
        "n_faults": [[source, reason, n] for (source, reason), n in sums.n_faults.items()],
        "faults": sums.faults,
        "n_bytes": sums.n_bytes,
        "n_cut": sums.n_cut,
    }
    try:
        make_directories(path.parent)
        replace_file(path, save(tensors, metadata={_KEY: json.dumps(body)}))
        sync_directory(path.parent)
    except OSError as error:
        raise ArtifactError(
            f"The checkpoint {path} cannot be written",
            got=error,
            expected="a folder that can be written to, and room in it",
            next_step="free some space and run the same command again: it goes on from the last checkpoint",
        ) from error


def read_checkpoint(path: Path, *, n_entries: int) -> tuple[dict[str, Any], Progress, RunningSums]:
    """Identity, progress and sums of what `write_checkpoint` wrote.

    Raises:
        ArtifactError: the file is damaged, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            body = json.loads((file.metadata() or {})[_KEY])
            if body["schema"] != _SCHEMA:
                raise ValueError(f"schema {body['schema']!r}")
            counts, documents = file.get_tensor("counts"), file.get_tensor("documents")
        sums = RunningSums(n_entries)
        for row, name in enumerate(body["domains"]):
            sums.counts[name], sums.documents[name] = counts[row].copy(), documents[row].copy()
            sums.n_documents[name] = body["n_documents"][row]
        sums.n_tokens = int(counts.sum())
        sums.n_faults.update({(source, reason): n for source, reason, n in body["n_faults"]})
        sums.faults, sums.n_bytes, sums.n_cut = body["faults"], body["n_bytes"], body["n_cut"]
        return body["identity"], Progress.from_json(body["progress"]), sums
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ArtifactError(
            f"The checkpoint {path} cannot be used",
            got=str(error).partition("\n")[0],
            expected="the checkpoint of an unfinished outlex count of this version",
            next_step="pass --overwrite to count from the beginning",
        ) from error
