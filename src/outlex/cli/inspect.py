"""`outlex inspect`: say what a file, a directory or a model name is, and what can be done with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from outlex.cli.options import DeviceOption, DtypeOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import emit_json
from outlex.errors import ArtifactError, InputError

__all__ = ["inspect"]

_RECOGNISED = (
    "a directory of `outlex trim` or `outlex fit-head` (or a sub-vocabulary), a JSON result of `outlex bench` or"
    " `outlex demo`,"
    " a model directory, a .gguf file, a catalogue name or a Hub id"
)


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """One look.

    Attributes:
        path: a path, or a name that `load_model` takes.
        target: a model whose tokenizer is compared; None compares nothing.
        machine: where models are loaded.
    """

    path: str
    target: str | None
    machine: Machine


def inspect(
    path: Annotated[str, typer.Argument(help="A path, or the name of a model.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Also check that it fits this model's tokenizer and head.")
    ] = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Say what something is: a trimmed drafter, a fitted head, a sub-vocabulary, a benchmark result, or a model.

    For a model it says whether a trimmed head can pay; a model that is not on this machine is fetched first.

    \b
    Example:
      outlex inspect qwen05-16k --target qwen15
      outlex inspect result.json
      outlex inspect smol135
    """
    config = InspectConfig(path=path, target=target, machine=Machine(dtype=dtype, device=device, threads=threads))
    place = Path(path).expanduser()
    if (place / "outlex.json").exists():
        _artifact(config, place, as_json=as_json)
    elif place.is_file() and place.suffix != ".gguf":
        _bench(config, place, as_json=as_json)
    elif place.is_dir() and not (place / "config.json").exists():
        raise _unknown(place, "a directory without outlex.json and without config.json")
    else:
        _model(config, as_json=as_json)


def _artifact(config: InspectConfig, place: Path, *, as_json: bool) -> None:
    from outlex.cli.inspect_artifact import describe_artifact, print_artifact

    description = describe_artifact(place, target=config.target, machine=config.machine)
    _show(description, as_json, print_artifact)


def _model(config: InspectConfig, *, as_json: bool) -> None:
    from outlex.cli.inspect_model import describe_model, print_model

    _show(describe_model(config.path, target=config.target, machine=config.machine), as_json, print_model)


def _show(description: dict[str, Any], as_json: bool, print_it: Any) -> None:
    if as_json:
        emit_json(description)
    else:
        print_it(description)


def _bench(config: InspectConfig, place: Path, *, as_json: bool) -> None:
    if place.suffix not in (".json", ".partial"):
        raise _unknown(place, f"a file that ends in {place.suffix or 'nothing'}")
    from outlex.bench import BenchResult
    from outlex.bench.table import renderable
    from outlex.cli.output import stdout_console
    from outlex.cli.results import bench_json

    if config.target is not None:
        raise InputError("--target has no meaning for a benchmark result", got=config.target, next_step="leave it out")
    try:
        result = BenchResult.load(place)
    except ArtifactError as error:
        raise ArtifactError(
            error.what,
            got=error.got,
            expected=_RECOGNISED,
            next_step=f"{error.next_step}; a token list goes to outlex trim --tokens",
        ) from error
    if as_json:
        emit_json(bench_json(result))
    else:
        stdout_console().print(renderable(result))


def _unknown(place: Path, got: str) -> InputError:
    return InputError(
        f"outlex does not know what {place} is",
        got=got,
        expected=_RECOGNISED,
        next_step="maps of other engines (d2t, hot token lists) cannot be read yet",
    )
