"""What a result has to say about where it was made, without naming places on that machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from outlex import __version__

__all__ = ["describe_environment", "memory_use", "publishable"]

_OPENMP = re.compile(r"/(lib(?:gomp|iomp5|omp)\b[^/\s]*\.(?:so|dylib)[^/\s]*)")
_SETTINGS = ("OMP_", "KMP_", "GOMP_", "MKL_")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Hardware, threads, versions, commit and command line, as JSON values.

    On a busy machine the OpenMP runtime and its settings can change decoding speed by a factor of ten; a
    result without them cannot be repeated.

    Args:
        device: where the models are.
    """
    commit, dirty = _commit(Path(__file__).resolve().parents[3])
    return {
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "argv": [Path(sys.argv[0]).name, *publishable(sys.argv[1:])],
        "versions": {
            "outlex": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": metadata.version("transformers"),
        },
        "commit": commit,
        "uncommitted_changes": dirty,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "openmp": _openmp_runtimes(),
        "openmp_settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_SETTINGS)},
        "preloaded": [Path(name).name for name in re.split(r"[ :]+", os.environ.get("LD_PRELOAD", "")) if name],
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def memory_use(device: torch.device) -> dict[str, int | None]:
    """Memory of this process in bytes; None where the system does not tell.

    `peak_rss` counts everything that was ever resident at once, pages of mapped checkpoint files included,
    also what was only needed while loading. `anonymous` is what the process itself holds now.
    """
    anonymous = None
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^RssAnon:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        anonymous = int(found[1]) * 1024 if found else None
    return {
        "peak_rss": _peak_rss(),
        "anonymous": anonymous,
        "peak_device": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def publishable(value: Any) -> Any:
    """A JSON value as it may be published: of absolute paths only the last part is kept, wherever they stand.

    Results are meant to be committed and shown; the folders of one machine mean nothing elsewhere.
    """
    if isinstance(value, dict):
        return {key: publishable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [publishable(entry) for entry in value]
    if not isinstance(value, str):
        return value
    option, equals, rest = value.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={publishable(rest)}"
    return f"…/{Path(value).name}" if os.path.isabs(value) else value


def _peak_rss() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB on Linux


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found[1]
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _openmp_runtimes() -> list[str]:
    """Every OpenMP library in this process. Two of them is a warning sign: each keeps threads of its own."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        return sorted(set(_OPENMP.findall(maps.read_text())))
    return [line.strip() for line in torch.__config__.parallel_info().splitlines() if "OpenMP" in line]


def _commit(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout at `root`, and whether its sources differ from it; None twice for a wheel."""
    if not (root / ".git").exists() or not (root / "src" / "outlex").is_dir():
        return None, None
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _output("git", "--no-optional-locks", "-C", str(root), "status", "--porcelain", "--", "src")
    return commit, None if changes is None else bool(changes)


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
