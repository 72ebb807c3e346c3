"""The package as a whole: what it exports and loads, which way its imports point, what it ships."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

import outlex

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "outlex"

# The public API. A name is added or removed here and in `outlex.__all__` together, on purpose.
EXPECTED_API: tuple[str, ...] = (
    "Generation",
    "LanguageModel",
    "OutlexError",
    "Proposal",
    "SamplingParams",
    "SpeculativeDecoder",
    "Step",
    "SubVocab",
    "Tli",
    "TrimmedDrafter",
    "Vanilla",
    "__version__",
    "load_draft_head",
    "load_model",
    "must_keep",
    "read_ranking",
    "trim",
)
MAX_API_NAMES = 20

# Each room may import the rooms before it. `testing` serves users' tests as well as ours, so it may reach
# every room but the benchmark and the command line.
LAYERS = (
    "errors",
    "atomic",
    "manifest",
    "artifact",
    "metrics",
    "randomness",
    "sampling",
    "vocab",
    "parts",
    "affinity",
    "proposals",
    "verify",
    "heads",
    "models",
    "eagle",
    "drafters",
    "decode",
    "transformers_hook",
    "calibration",
    "formats",
    "selection",
    "forecast",
    "tuning",
    "bench",
    "experiments",
    "report",
    "vllm_plugin",
    "demo",
    "conformance",
    "testing",
    "cli",
)
# Engines that bring their own torch cannot share our pins; benchmarks/vllm/setup.sh pins its own.
UNPINNED = {"vllm"}
BARRED_FROM_TESTING = {"bench", "cli", "experiments"}

HEAVY = {
    "accelerate",
    "gguf",
    "huggingface_hub",
    "numpy",
    "rich",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
}


# --- import and API ----------------------------------------------------------------------------------------


def test_importing_outlex_loads_nothing_heavy() -> None:
    code = "import sys, outlex, outlex.errors; dir(outlex); print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "outlex" in loaded
    assert not loaded & HEAVY


def test_public_api_is_the_pinned_one() -> None:
    assert sorted(outlex.__all__) == sorted(EXPECTED_API)
    assert len(set(EXPECTED_API)) == len(EXPECTED_API) <= MAX_API_NAMES


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in outlex.__all__:
        getattr(outlex, name)
    assert set(outlex.__all__) <= set(dir(outlex))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    assert not hasattr(outlex, "no_such_name")


# --- layering ----------------------------------------------------------------------------------------------


def rooms_imported(path: Path, source_dir: Path = SOURCE) -> Iterator[tuple[str, int]]:
    """Every room of outlex that the module at `path` imports, with the line. The facade is the room "".

    Imports inside functions and under `TYPE_CHECKING` count like any other: they bind the same two rooms.
    """
    package = ("outlex", *path.relative_to(source_dir).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += (node.module or "").split(".") if node.module else []
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "outlex" and target != ["outlex", "__version__"]:
                yield (target[1] if len(target) > 1 else ""), node.lineno


def layering_faults(path: Path, source_dir: Path = SOURCE) -> list[str]:
    """What is wrong with the imports of one module, in words; an empty list when nothing is."""
    where = path.relative_to(source_dir)
    room = where.parts[0].removesuffix(".py")
    if where == Path("__init__.py"):  # the facade stands above every room
        room, allowed = "the facade", set(LAYERS)
    elif room not in LAYERS:
        return [f"{where}: the room {room} has no place in LAYERS"]
    elif room == "testing":
        allowed = set(LAYERS) - BARRED_FROM_TESTING
    else:
        allowed = set(LAYERS[: LAYERS.index(room) + 1])
    faults = {
        f"{where}:{line}: {room} may not import {imported or 'the facade'}"
        for imported, line in rooms_imported(path, source_dir)
        if imported not in allowed
    }
    return sorted(faults)


def test_imports_point_one_way() -> None:
    modules = sorted(SOURCE.rglob("*.py"))
    assert modules
    faults = [fault for module in modules for fault in layering_faults(module)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("proposals/tli.py", "from outlex.verify import accept", "proposals may not import verify"),
        ("proposals/tli.py", "from outlex import verify", "proposals may not import verify"),
        ("proposals/tli.py", "from ..verify import accept", "proposals may not import verify"),
        ("proposals/tli.py", "from .. import verify", "proposals may not import verify"),
        ("proposals/tli.py", "import outlex.cli.main", "proposals may not import cli"),
        ("proposals/tli.py", "import outlex", "proposals may not import the facade"),
        ("proposals/tli.py", "def f():\n    from outlex.cli import main", "proposals may not import cli"),
        ("testing.py", "from outlex.bench import run", "testing may not import bench"),
        ("helpers.py", "import torch", "the room helpers has no place in LAYERS"),
        ("proposals/tli.py", "from .base import Proposal", None),
        ("proposals/tli.py", "from . import base", None),
        ("proposals/tli.py", "from outlex import __version__", None),
        ("proposals/tli.py", "from outlex.errors import InputError", None),
        ("testing.py", "from outlex.decode import generate", None),
        ("__init__.py", "from outlex.decode import generate", None),
    ],
)
def test_layering_rule_catches_each_way_to_import(tmp_path: Path, module: str, line: str, fault: str | None) -> None:
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(line, encoding="utf-8")
    faults = layering_faults(path, tmp_path)
    assert len(faults) == (0 if fault is None else 1)
    assert fault is None or fault in faults[0]


# --- what is shipped ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built without network by the installed build backend."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def wheel_file(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = (entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))
    return wheel.read(member).decode()


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(wheel_file(wheel, "METADATA"))


def test_wheel_ships_every_module_the_type_marker_and_the_licence(wheel: zipfile.ZipFile) -> None:
    members = set(wheel.namelist())
    assert "outlex/py.typed" in members
    assert {f"outlex/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*.py")} <= members
    assert wheel_file(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    outside = {member for member in members if not re.match(r"outlex/|outlex-[^/]+\.dist-info/", member)}
    assert not outside


def test_wheel_metadata_agrees_with_the_code(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["Name"] == "outlex"
    assert metadata["Version"] == outlex.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "outlex = outlex.cli:main" in wheel_file(wheel, "entry_points.txt")


def test_every_direct_dependency_is_pinned_for_every_python(metadata: Message) -> None:
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, rest = line.split("==")
            pins.setdefault(name, []).append(rest.partition(";")[2].strip())
    assert pins
    # One pin for all, two halves that meet, or (a backport) the older half alone.
    older, newer = "python_version < '3.11'", "python_version >= '3.11'"
    assert {tuple(markers) for markers in pins.values()} <= {("",), (newer, older), (older,)}
    for requirement in metadata.get_all("Requires-Dist", []):
        match = re.match(r"[\w-]+", requirement)
        assert match is not None
        if match[0] in UNPINNED:
            continue
        assert len(pins[match[0]]) >= 1
        assert pins[match[0]] != [older]


# --- the repository ----------------------------------------------------------------------------------------


def committed_text_files() -> list[Path]:
    """What git tracks or would track, so that a developer's ignored files are not judged."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip(f"not a git checkout, so nothing tells which files are committed: {listing.stderr.strip()}")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()]


def find_leaks(path: str, text: str) -> list[str]:
    """Machine paths and package-registry hosts in `text`; only Markdown may link to the model hub."""
    # Spelled in pieces, so that this file does not accuse itself.
    folders = "|".join(["work", "tmp", "root"])
    hosts = ["pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org"]
    if not path.endswith(".md"):
        hosts.append("huggingface" + ".co")
    pattern = rf"(?<![\w.~$}}\])-])/(?:{folders})/|" + "|".join(map(re.escape, hosts))
    return [
        f"{path}:{number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for match in re.finditer(pattern, line)
    ]


def test_no_committed_file_names_a_machine_path_or_a_registry() -> None:
    files = committed_text_files()
    assert files
    leaks = [
        leak
        for path in files
        for leak in find_leaks(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not leaks, "\n".join(leaks)


def test_leaks_are_found_and_ordinary_text_is_not() -> None:
    hub = "https://" + "huggingface" + ".co/Qwen"
    leaking = ["/" + "work/main", "cd /" + "tmp/dev", "'/" + "root/x'", "https://py" + "pi.org/simple", hub]
    assert [bool(find_leaks("a.py", text)) for text in leaking] == [True] * len(leaking)
    assert find_leaks("docs/models.md", hub) == []
    assert find_leaks("a.py", "framework/ src/" + "root/x $HOME/" + "tmp/y ~/" + "work/z /home/me") == []


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/demo", "scripts/check", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111 == 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_every_script_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"\bscripts/\w+", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"scripts/demo", "scripts/check"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("script", ["setup", "check"])
def test_scripts_explain_themselves_and_refuse_what_they_do_not_know(script: str) -> None:
    path = str(ROOT / "scripts" / script)
    helped = subprocess.run([path, "--help"], capture_output=True, text=True, check=True)
    assert helped.stdout.startswith("Makes" if script == "setup" else "Sets")
    refused = subprocess.run([path, "--frobnicate"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--frobnicate" in refused.stderr
    assert f"scripts/{script} --help" in refused.stderr
