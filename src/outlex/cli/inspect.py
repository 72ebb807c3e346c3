"""`outlex inspect`: say what a file, a directory or a model name is, and what can be done with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from outlex.cli.failures import EXIT_OTHER
from outlex.cli.map_options import NTargetOption, ReadAs, ReadAsOption, StatsOption, TokenizerOption
from outlex.cli.options import DeviceOption, DtypeOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import emit_json, say
from outlex.errors import ArtifactError, InputError, MismatchError, VocabError

__all__ = ["inspect"]

_RECOGNISED = (
    "a directory of `outlex trim` or `outlex fit-head` (or a sub-vocabulary), a JSON result of `outlex bench` or"
    " `outlex demo`, a token map (.pt, .json or .txt with ids), a checkpoint of EAGLE, EAGLE-3, speculators or Medusa,"
    " a model directory, a .gguf file, a catalogue name or a Hub id"
)


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """One look.

    Attributes:
        path: a path, or a name that `load_model` takes.
        target: a model whose tokenizer and head are compared; None compares nothing.
        tokenizer: a model whose tokens a map holds; None leaves the target's.
        stats: counts of a corpus, for the coverage of a map.
        read_as, n_target: what a map does not say itself.
        machine: where models are loaded.
    """

    path: str
    target: str | None
    tokenizer: str | None
    stats: Path | None
    read_as: ReadAs | None
    n_target: int | None
    machine: Machine

    def refuse_map_options(self, what: str) -> None:
        """Raise an InputError if an option was given that only a map has a use for."""
        given = {
            "--tokenizer": self.tokenizer,
            "--stats": self.stats,
            "--read-as": self.read_as,
            "--n-target": self.n_target,
        }
        names = [name for name, value in given.items() if value is not None]
        if names:
            raise InputError(
                f"{', '.join(names)} only make sense for a token map", got=what, next_step="leave them out"
            )


def inspect(
    path: Annotated[str, typer.Argument(help="A path, or the name of a model.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Also check that it fits this model's tokenizer and head.")
    ] = None,
    tokenizer: TokenizerOption = None,
    stats: StatsOption = None,
    read_as: ReadAsOption = None,
    n_target: NTargetOption = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Say what something is: a trimmed drafter, a fitted head, a token map of any engine, an EAGLE drafter, a benchmark
    result, a model.

    Token maps are the lists of SGLang and FR-Spec, EAGLE-3, speculators and Medusa checkpoints, GGUF files with d2t,
    and the files of ModelOpt, NeMo Automodel and SpecForge. It says how the map is spelled, which must-keep tokens it
    lacks, what share of counted text it covers, whether it fits a target, and what each engine would do with it. The
    exit code is 1 if it does not fit.

    For an EAGLE drafter it says as well which layers of the target it reads, how wide it is, which tokens it can draft
    and whose drafter it is.

    For a model it says whether a trimmed head can pay; a model that is not on this machine is fetched first.

    \b
    Example:
      outlex inspect qwen05-16k --target qwen15
      outlex inspect hot-tokens.pt --tokenizer qwen15 --stats stats.safetensors
      outlex inspect result.json
      outlex inspect smol135
    """
    from outlex.artifact import MANIFEST

    config = InspectConfig(
        path=path,
        target=target,
        tokenizer=tokenizer,
        stats=stats,
        read_as=read_as,
        n_target=n_target,
        machine=Machine(dtype=dtype, device=device, threads=threads),
    )
    place = Path(path).expanduser()
    if (place / MANIFEST).exists():
        _artifact(config, place, as_json=as_json)
    elif _is_eagle(place):
        _eagle(config, place, as_json=as_json)
    elif place.exists() and _is_map(place):
        _map(config, place, as_json=as_json)
    elif place.is_file() and place.suffix != ".gguf":
        _bench(config, place, as_json=as_json)
    elif place.is_dir() and not (place / "config.json").exists():
        raise _unknown(place, f"a directory without {MANIFEST} and without config.json")
    else:
        config.refuse_map_options("a model")
        _model(config, as_json=as_json)


def _is_map(place: Path) -> bool:
    from outlex.formats import recognise

    return recognise(place) is not None


def _map(config: InspectConfig, place: Path, *, as_json: bool) -> None:
    _show_map(_describe_map(config, place, target=config.target), as_json=as_json)


def _show_map(description: dict[str, Any], *, as_json: bool) -> None:
    from outlex.cli.inspect_map import print_map

    _show(description, as_json, print_map)
    _exit_unless_it_fits(description)


def _exit_unless_it_fits(as_map: dict[str, Any]) -> None:
    if as_map["target"] is not None and as_map["target"]["verdict"] == "no":
        raise typer.Exit(EXIT_OTHER)


def _is_eagle(place: Path) -> bool:
    from outlex.formats.eagle_checkpoint import is_eagle_directory

    return is_eagle_directory(place)


def _eagle(config: InspectConfig, place: Path, *, as_json: bool) -> None:
    from outlex.cli.inspect_eagle import describe_eagle, print_eagle
    from outlex.formats.eagle_checkpoint import has_draft_map

    target = None if config.target is None else config.machine.load(config.target)
    try:
        description = describe_eagle(place, target=target)
    except (ArtifactError, VocabError) as error:
        is_of_another = target is not None and isinstance(error, MismatchError)
        if is_of_another or not has_draft_map(place):
            raise
        alone = _describe_map(config, place, target=config.target)  # a damaged file ends here, with one message
        why = f"{error.what}: {error.got}" if error.got is not None else error.what
        say(f"outlex cannot run this drafter, so here is its map alone. {why}. {error.next_step}", style="yellow")
        _show_map(alone, as_json=as_json)
        return
    as_map = None
    if description["drafter"]["drafts_all"]:
        config.refuse_map_options("a drafter that can draft every token")
    else:
        goal = description["target"]
        if goal is not None and goal["tokenizer_is_proven"] and config.tokenizer is None:
            config = replace(config, tokenizer=config.target)
        as_map = _describe_map(config, place, target=config.target)
    if as_json:
        emit_json({**description, "map": as_map})
    else:
        print_eagle(description, as_map)
    if as_map is not None:
        _exit_unless_it_fits(as_map)


def _describe_map(config: InspectConfig, place: Path, *, target: str | None) -> dict[str, Any]:
    from outlex.cli.inspect_map import describe_map
    from outlex.formats import Reading

    return describe_map(
        place,
        reading=Reading(read_as=None if config.read_as is None else config.read_as.value, n_target=config.n_target),
        tokenizer=config.tokenizer,
        target=target,
        stats=config.stats,
    )


def _artifact(config: InspectConfig, place: Path, *, as_json: bool) -> None:
    from outlex.cli.inspect_artifact import describe_artifact, print_artifact
    from outlex.cli.inspect_map import print_map
    from outlex.cli.output import stdout_console

    description = describe_artifact(place, target=config.target, machine=config.machine)
    as_map = None
    if config.stats is not None or config.tokenizer is not None:
        as_map = _describe_map(config, place, target=None)
    if as_json:
        emit_json({**description, "map": as_map})
        return
    print_artifact(description)
    if as_map is not None:
        stdout_console().print()
        print_map(as_map)


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

    config.refuse_map_options("a benchmark result")
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
        next_step="check the path; counts of tokens go to outlex trim --tokens",
    )
