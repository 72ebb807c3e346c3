"""One result file, and where its numbers come from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Source"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A JSON file that was read.

    Attributes:
        name: its path below the directory of the report, with forward slashes.
        path: where it is.
        body: its top level.
    """

    name: str
    path: Path = field(repr=False)
    body: dict[str, Any] = field(repr=False)

    def provenance(self) -> list[tuple[str, str]]:
        """Names and values: command, commit, threads, versions, machine. What the file does not say is left out."""
        found = self.body.get("environment", self.body)
        if not isinstance(found, Mapping) or not {"argv", "commit", "versions"} & found.keys():
            return [("file", self.name), ("made by", "not recorded in this file")]
        facts = [("file", self.name)]
        argv = found.get("argv")
        if isinstance(argv, list):
            facts.append(("command", shlex.join(map(str, argv))))
        if found.get("commit"):
            changed = " with uncommitted changes" if found.get("uncommitted_changes") else ""
            facts.append(("commit", f"{str(found['commit'])[:12]}{changed}"))
        if found.get("date_utc"):
            facts.append(("date", str(found["date_utc"])))
        versions = found.get("versions")
        if isinstance(versions, Mapping):
            facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
        where = [str(found[name]) for name in ("device_name", "cpu", "system") if found.get(name)]
        if where:
            facts.append(("machine", ", ".join(where)))
        if found.get("threads") is not None:
            load = found.get("load_average")
            of = f" of {found['usable_cores']} cores" if found.get("usable_cores") is not None else ""
            busy = f", load {load:.1f} at the start" if isinstance(load, float) else ""
            facts.append(("threads", f"{found['threads']}{of}{busy}"))
        return facts
