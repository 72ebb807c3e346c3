"""Artifacts: what was written comes back, and nothing else ever does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outlex.artifact import Artifact, check_destination, read_artifact, write_artifact
from outlex.errors import ArtifactError, InputError

KIND = "sub-vocab"
OLD: dict[str, Any] = {"name": "old", "n": 3, "list": [1, 2.5, None, True], "nested": {"é": "\ud800"}}
NEW: dict[str, Any] = {"name": "new"}


def _tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "ids": torch.randperm(50, generator=generator),
        "rows": torch.randn(3, 4, generator=generator).to(torch.bfloat16),
        "empty": torch.zeros(0, dtype=torch.int64),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }


def _write(directory: Path, config: dict[str, Any], seed: int, *, kind: str = KIND) -> None:
    write_artifact(directory, kind=kind, config=config, tensors=_tensors(seed))


def _holds(artifact: Artifact, config: dict[str, Any], seed: int) -> bool:
    wanted = _tensors(seed)
    return (
        artifact.config == config
        and set(artifact.tensors) == set(wanted)
        and all(
            artifact.tensors[name].dtype == tensor.dtype and torch.equal(artifact.tensors[name], tensor)
            for name, tensor in wanted.items()
        )
    )


def _tensor_file(directory: Path) -> Path:
    (path,) = directory.glob("tensors-*.safetensors")
    return path


def _rewrite_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change outlex.json and make its checksum right again, as another program could."""
    path = directory / "outlex.json"
    body = json.loads(path.read_text())
    del body["checksum"]
    change(body)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**body, "checksum": hashlib.sha256(canonical).hexdigest()}))


def test_round_trip(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    _write(directory, OLD, 1)
    artifact = read_artifact(directory, kind=KIND)
    assert _holds(artifact, OLD, 1)
    assert artifact.kind == KIND
    assert set(artifact.versions) == {"outlex", "torch", "python"}
    assert _holds(read_artifact(str(directory), kind=None), OLD, 1)


def test_replacing_leaves_exactly_two_files_and_strangers_alone(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    # What killed writes leave behind.
    (tmp_path / "a" / ".outlex-tmp-0123").write_text("half")
    (tmp_path / "a" / f"tensors-{'0' * 12}.safetensors").write_text("unreferenced")
    _write(tmp_path / "a", NEW, 2)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["notes.txt", "outlex.json", _tensor_file(tmp_path / "a").name]
    assert _holds(read_artifact(tmp_path / "a", kind=KIND), NEW, 2)


def test_the_same_tensors_with_another_config(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1)
    _write(tmp_path / "a", NEW, 1)
    assert _holds(read_artifact(tmp_path / "a", kind=KIND), NEW, 1)


def test_views_and_shared_memory_are_stored_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": base, "rows": base[1:], "columns": base[:, 1], "again": base}
    write_artifact(tmp_path / "a", kind=KIND, config={}, tensors=tensors)
    stored = read_artifact(tmp_path / "a", kind=KIND).tensors
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def test_files_follow_the_umask(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert (tmp_path / "a" / "outlex.json").stat().st_mode == plain.stat().st_mode


# Every step of a write that a disk can refuse.
STEPS = ("open", "write", "fsync", "replace", "mkdir")


class _Disk:
    """Stands in for some functions of os: counts their calls and lets one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fail_at: int, error: BaseException, late: bool) -> None:
        self.n_calls = 0
        for step in STEPS:
            monkeypatch.setattr(os, step, self._wrapped(getattr(os, step), fail_at, error, late))

    def _wrapped(self, real: Callable[..., Any], fail_at: int, error: BaseException, late: bool) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.n_calls += 1
            if self.n_calls != fail_at:
                return real(*args, **kwargs)
            if late:
                real(*args, **kwargs)
            elif real.__name__ == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            raise error

        return step


def _write_with_failure(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, fail_at: int, error: BaseException, late: bool
) -> tuple[int, BaseException | None]:
    caught: BaseException | None = None
    with monkeypatch.context() as patch:
        disk = _Disk(patch, fail_at=fail_at, error=error, late=late)
        try:
            _write(directory, NEW, 2)
        except (ArtifactError, KeyboardInterrupt) as raised:
            caught = raised
    return disk.n_calls, caught


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error_class", [OSError, KeyboardInterrupt])
def test_a_failure_at_any_step_leaves_a_whole_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_class: type[BaseException], late: bool
) -> None:
    error = error_class(errno.ENOSPC, "No space left on device")
    n_old = 0
    for fail_at in range(1, 100):
        directory = tmp_path / str(fail_at)
        _write(directory, OLD, 1)
        n_calls, caught = _write_with_failure(directory, monkeypatch, fail_at=fail_at, error=error, late=late)
        artifact = read_artifact(directory, kind=KIND)
        is_old = _holds(artifact, OLD, 1)
        assert is_old or _holds(artifact, NEW, 2)
        n_old += is_old
        leftovers = {path.name for path in directory.iterdir()} - {"outlex.json"}
        assert not any(name.startswith(".") for name in leftovers)
        if is_old:
            assert len(leftovers) == 1
        if n_calls < fail_at:
            break
        if caught is not None and error_class is OSError:
            assert isinstance(caught, ArtifactError)
            assert "free some disk space" in str(caught)
    assert caught is None
    # open, write, fsync, replace for the tensors, open and fsync for the directory, then the manifest.
    assert n_old >= 9


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_failure_of_the_first_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    error = OSError(errno.EDQUOT, "Disk quota exceeded")
    for fail_at in range(1, 100):
        directory = tmp_path / str(fail_at) / "deep" / "er"
        directory.parents[1].mkdir()
        n_calls, caught = _write_with_failure(directory, monkeypatch, fail_at=fail_at, error=error, late=late)
        if n_calls < fail_at:
            assert caught is None
            break
        assert isinstance(caught, ArtifactError)
        if (directory / "outlex.json").exists():
            assert _holds(read_artifact(directory, kind=KIND), NEW, 2)
        elif not late:
            assert not list((tmp_path / str(fail_at)).iterdir())
        _write(directory, NEW, 2)
        assert _holds(read_artifact(directory, kind=KIND), NEW, 2)
    assert fail_at > 10


def test_a_refusal_other_than_a_full_disk_says_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = PermissionError(errno.EACCES, "Permission denied")
    _, caught = _write_with_failure(tmp_path / "a", monkeypatch, fail_at=1, error=error, late=False)
    assert "check the permissions" in str(caught)
    assert "-o" in str(caught)


_KILLED = """
import os, random, signal, sys, time
import torch
from outlex.artifact import read_artifact, write_artifact

directory = sys.argv[1]


def write(n):
    write_artifact(directory, kind="k", config={"n": n}, tensors={"t": torch.full((2000,), n)})


write(0)
random.seed(1)
n_whole, last = 0, 0
for _ in range(40):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            while True:
                last += 1
                write(last)
                os.write(writer, b".")
        finally:
            os._exit(1)
    os.close(writer)
    # The first write of the round is done: the kill comes somewhere in the next ones.
    assert os.read(reader, 1) == b"."
    time.sleep(random.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    artifact = read_artifact(directory, kind="k")
    assert artifact.config["n"] > last
    last = artifact.config["n"]
    assert (artifact.tensors["t"] == last).all()
    n_whole += 1
write(last + 1)
print(n_whole, last, len(os.listdir(directory)))
"""

_TOO_LARGE = """
import resource, sys
import torch
from outlex.artifact import write_artifact
from outlex.errors import ArtifactError

resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_artifact(sys.argv[1], kind="sub-vocab", config={}, tensors={"t": torch.zeros(5000)})
except ArtifactError as error:
    print(error)
"""


def _run(code: str, directory: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_killed_writer_leaves_a_whole_artifact(tmp_path: Path) -> None:
    n_whole, last, n_files = map(int, _run(_KILLED, tmp_path / "a").split())
    assert n_whole == 40
    assert last >= 40
    assert n_files == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_real_short_write_leaves_the_old_artifact(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1)
    assert "free some disk space" in _run(_TOO_LARGE, tmp_path / "a")
    assert _holds(read_artifact(tmp_path / "a", kind=KIND), OLD, 1)
    assert len(list((tmp_path / "a").iterdir())) == 2


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pristine") / "a"
    _write(directory, OLD, 1)
    return directory


@given(data=st.data())
def test_damaged_files_are_refused_or_harmless(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    files = {path.name: bytearray(path.read_bytes()) for path in pristine.iterdir()}
    name = data.draw(st.sampled_from(sorted(files)))
    contents = files[name]
    place = data.draw(st.integers(0, len(contents) - 1))
    damage = data.draw(st.sampled_from(["truncate", "flip", "drop", "insert", "zero"]))
    if damage == "truncate":
        del contents[place:]
    elif damage == "flip":
        contents[place] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "drop":
        del contents[place]
    elif damage == "insert":
        contents.insert(place, data.draw(st.integers(0, 255)))
    else:
        contents[place:] = bytes(len(contents) - place)
    for other, content in files.items():
        (directory / other).write_bytes(content)
    refusal, artifact = None, None
    try:
        artifact = read_artifact(directory, kind=KIND)
    except ArtifactError as error:
        refusal = error
    if artifact is not None:
        assert _holds(artifact, OLD, 1)
    else:
        assert name in str(refusal)
        assert "write it again" in str(refusal)


@given(st.binary(max_size=60) | st.sampled_from([b"[]", b"{}", b"null", b"[" * 100_000, b"1" * 5000, b'{"a":NaN}']))
def test_any_bytes_as_manifest_are_refused(tmp_path_factory: pytest.TempPathFactory, contents: bytes) -> None:
    directory = tmp_path_factory.mktemp("any")
    (directory / "outlex.json").write_bytes(contents)
    with pytest.raises(ArtifactError, match="write it again"):
        read_artifact(directory, kind=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.update(surprise=1), "unknown or missing keys: surprise"),
        (lambda body: body.pop("versions"), "unknown or missing keys: versions"),
        (lambda body: body.update(kind=3), "wrong type"),
        (lambda body: body.update(config=[]), "wrong type"),
        (lambda body: body.update(versions={"torch": 2}), "wrong type"),
        (lambda body: body.update(tensors=None), "wrong type"),
        (lambda body: body["tensors"].update(bytes=True), "wrong type"),
        (lambda body: body["tensors"].update(bytes="9"), "wrong type"),
        (lambda body: body["tensors"].update(more=1), "wrong type"),
        (lambda body: body["tensors"].update(name="../tensors-000000000000.safetensors"), "wrong type"),
        (lambda body: body["tensors"].update(bytes=1), "bytes, sha256"),
        (lambda body: body["tensors"].update(sha256="0" * 64), "bytes, sha256"),
        (lambda body: body["tensors"].update(name=f"tensors-{'0' * 12}.safetensors"), "No such file"),
        (lambda body: body.update(format_version=0), "format_version 0"),
        (lambda body: body.update(format_version=True), "format_version True"),
        (lambda body: body.update(format_version="1"), "format_version '1'"),
        (lambda body: body.update(format_version=2), "upgrade outlex"),
    ],
)
def test_a_manifest_that_means_something_else_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _write(tmp_path / "a", OLD, 1)
    _rewrite_manifest(tmp_path / "a", change)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(tmp_path / "a", kind=KIND)
    assert message in str(caught.value)
    assert caught.value.next_step is not None


def test_tensor_bytes_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1)
    _tensor_file(tmp_path / "a").write_bytes(b"junk")
    sha256 = hashlib.sha256(b"junk").hexdigest()
    _rewrite_manifest(tmp_path / "a", lambda body: body["tensors"].update(bytes=4, sha256=sha256))
    with pytest.raises(ArtifactError, match="copy it again"):
        read_artifact(tmp_path / "a", kind=KIND)


def test_another_kind_says_who_reads_it(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1, kind="trimmed-drafter")
    with pytest.raises(ArtifactError, match=r"outlex generate --trimmed") as caught:
        read_artifact(tmp_path / "a", kind=KIND)
    assert (caught.value.got, caught.value.expected) == ("trimmed-drafter", KIND)
    _write(tmp_path / "b", OLD, 1, kind="new-kind")
    with pytest.raises(ArtifactError, match=r"outlex inspect"):
        read_artifact(tmp_path / "b", kind=KIND)


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="check the path"):
        read_artifact(tmp_path / "nowhere", kind=KIND)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="check the path"):
        read_artifact(tmp_path / "file", kind=KIND)
    _write(tmp_path / "a", OLD, 1)
    _tensor_file(tmp_path / "a").unlink()
    with pytest.raises(ArtifactError, match="tensors-"):
        read_artifact(tmp_path / "a", kind=KIND)


@pytest.mark.parametrize("where", [".", "below", "below/again"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="another output directory"):
        _write(tmp_path / "file" / where, OLD, 1)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"(?s)thesis\.tex.*another output directory"):
            _write(tmp_path, OLD, 1)
        # The same with a manifest that nobody can read.
        (tmp_path / "outlex.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outlex.json", "thesis.tex"]


def test_an_artifact_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1, kind="trimmed-drafter")
    with pytest.raises(ArtifactError, match=r"(?s)trimmed-drafter.*another output directory"):
        _write(tmp_path / "a", NEW, 2)
    assert _holds(read_artifact(tmp_path / "a", kind="trimmed-drafter"), OLD, 1)


def test_damaged_and_half_written_artifacts_can_be_written_again(tmp_path: Path) -> None:
    _write(tmp_path / "a", OLD, 1)
    (tmp_path / "a" / "outlex.json").write_text("{")
    check_destination(tmp_path / "a", kind=KIND)
    _write(tmp_path / "a", NEW, 2)
    assert _holds(read_artifact(tmp_path / "a", kind=KIND), NEW, 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".outlex-tmp-01").write_text("")
    (tmp_path / "b" / f"tensors-{'0' * 12}.safetensors").write_text("")
    _write(tmp_path / "b", NEW, 2)
    assert len(list((tmp_path / "b").iterdir())) == 2


def test_a_relative_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(Path("a/b"), OLD, 1)
    assert _holds(read_artifact("a/b", kind=KIND), OLD, 1)


@pytest.mark.parametrize(
    "config",
    [
        {"a": (1, 2)},
        {1: "a"},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": {1, 2}},
        {"a": b"x"},
        [1],
        None,
    ],
)
def test_a_config_that_would_change_is_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(InputError, match="turn tuples into lists"):
        write_artifact(tmp_path / "a", kind=KIND, config=config, tensors={})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": [1, 2]},
        {"a": torch.eye(2).to_sparse()},
        {3: torch.zeros(1)},
        {"a": torch.zeros(1, device="meta")},
        [],
    ],
)
def test_tensors_that_cannot_be_stored_are_refused(tmp_path: Path, tensors: Any) -> None:
    with pytest.raises(InputError, match="plain dense tensors"):
        write_artifact(tmp_path / "a", kind=KIND, config={}, tensors=tensors)
    assert not (tmp_path / "a").exists()
