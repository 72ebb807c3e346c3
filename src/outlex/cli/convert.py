"""`outlex convert`: a token map in another engine's format, or a drafter cut to fewer tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.map_options import NTargetOption, ReadAs, ReadAsOption, TokenizerOption
from outlex.cli.options import JsonOption
from outlex.cli.output import emit_json, print_facts, stdout_console
from outlex.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from outlex.formats import Reading
    from outlex.formats.fit import TargetFacts

__all__ = ["FormatName", "convert"]

_PANEL = "Cutting a drafter again"


class FormatName(str, Enum):
    """The formats that are written; the keys of `outlex.formats.WRITERS`."""

    outlex = "outlex"
    sglang_token_map = "sglang-token-map"
    eagle3_d2t = "eagle3-d2t"
    speculators = "speculators"
    medusa_token_map = "medusa-token-map"
    gguf = "gguf"
    token_ids = "token-ids"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """One conversion.

    Attributes:
        source: the map, or with `retrim` the drafter.
        to: the format to write; None only with `retrim`, which keeps the drafter's.
        output: what to write.
        tokenizer: the model whose tokens the ids are.
        read_as, n_target: what the map does not say itself.
        retrim: the tokens that the drafter keeps.
        size: how many.
        overwrite: replace the output.

    Raises:
        InputError: options that do not belong together, or an output that exists.
    """

    source: Path
    to: FormatName | None
    output: Path
    tokenizer: str | None
    read_as: ReadAs | None
    n_target: int | None
    retrim: Path | None
    size: int | None
    overwrite: bool

    def __post_init__(self) -> None:
        if self.retrim is None and self.to is None:
            raise InputError(
                "There is nothing to convert to",
                expected=f"--to {', '.join(name.value for name in FormatName)}, or --retrim TOKENS",
                next_step="name the format with --to",
            )
        if self.retrim is None and self.size is not None:
            raise InputError(
                "--size says how many tokens a drafter keeps, and needs --retrim TOKENS",
                got=f"--size {self.size}",
                next_step="give --retrim, or choose a shorter list with 'outlex trim --tokens'",
            )
        if self.retrim is not None and self.tokenizer is None:
            raise InputError(
                "A drafter is never cut without its must-keep tokens, and the tokenizer names them",
                expected="--tokenizer MODEL",
                next_step="give the target, or any model of its family, as --tokenizer",
            )
        if self.retrim is not None and not self.retrim.exists():
            raise InputError("There is no such token list", got=self.retrim, next_step="check the path after --retrim")
        if self.output.exists() and not self.overwrite:
            raise InputError(
                "The output exists already",
                got=self.output,
                next_step="choose another path with -o, or pass --overwrite to replace it",
            )

    @property
    def reading(self) -> Reading:
        """What to tell the reader of the map."""
        from outlex.formats import Reading

        return Reading(read_as=None if self.read_as is None else self.read_as.value, n_target=self.n_target)


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A map of any format that 'outlex inspect' knows, or a drafter.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File or directory to write.")],
    to: Annotated[FormatName | None, typer.Option("--to", help="The format to write.")] = None,
    tokenizer: TokenizerOption = None,
    read_as: ReadAsOption = None,
    n_target: NTargetOption = None,
    retrim: Annotated[
        Path | None,
        typer.Option(
            "--retrim",
            help="Cut the EAGLE-3 or speculators drafter IN to these tokens: a map of any format, or what"
            " 'outlex trim --tokens' takes. Needs --tokenizer; must-keep tokens stay.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Rows to keep. Default: all that are named.", rich_help_panel=_PANEL),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a token map in the format of another engine, or cut a drafter to a smaller draft vocabulary.

    Offsets and absolute ids are told apart by the numbers, and a map that can be read in two ways is refused. What is
    written is read back and compared before the command ends well.

    \b
    Example:
      outlex convert hot-tokens.pt --to eagle3-d2t --tokenizer qwen15 -o map.safetensors
      outlex convert eagle3-drafter --to sglang-token-map -o hot-tokens.pt
      outlex convert eagle3-drafter --retrim stats.safetensors --size 8192 --tokenizer qwen15 -o eagle3-8k
    """
    config = ConvertConfig(
        source=source,
        to=to,
        output=output,
        tokenizer=tokenizer,
        read_as=read_as,
        n_target=n_target,
        retrim=retrim,
        size=size,
        overwrite=overwrite,
    )
    result = _convert(config, FormatName(to)) if retrim is None else _retrim(config, retrim)
    if as_json:
        emit_json(result)
    else:
        _print(result)


def _convert(config: ConvertConfig, to: FormatName) -> dict[str, Any]:
    from outlex.cli.inspect_target import policy_of, target_facts
    from outlex.formats import WRITERS, Reading, WriteRequest, read_map
    from outlex.formats.tokens import missing_must_keep

    writer = WRITERS[to.value]
    if writer.suffixes and config.output.suffix not in writer.suffixes:
        raise InputError(
            f"Files of the format {writer.name} end in {' or '.join(writer.suffixes)}",
            got=config.output,
            next_step=f"name it {config.output.with_suffix(writer.suffixes[0]).name}",
        )
    before = read_map(config.source, config.reading)
    goal = None if config.tokenizer is None else target_facts(config.tokenizer)
    must_keep_ids = () if goal is None else policy_of(goal).ids
    if goal is not None:
        _check_tokenizer(before.tokenizer_fingerprint, before.n_tokenizer, goal)
    n_target = config.n_target or before.n_target or (None if goal is None else goal.n_rows)
    writer.write(
        before,
        WriteRequest(
            output=config.output,
            n_target=n_target,
            facts=None if goal is None else goal.facts,
            must_keep_ids=must_keep_ids,
        ),
    )
    after = read_map(config.output, Reading(n_target=n_target))
    if not after.ids.sort().values.equal(before.ids.sort().values):
        raise ArtifactError(
            "The file written does not hold the same tokens as the map that was read",
            got=f"{after.n_draft} ids in {config.output}",
            expected=f"{before.n_draft} ids, as in {config.source}",
            next_step="do not use it, and report this with both files",
        )
    missing: set[int] = set()
    if goal is not None:
        by_reason = missing_must_keep(before.ids, policy_of(goal), n_target=goal.n_rows)
        missing = {token_id for ids in by_reason.values() for token_id in ids}
    return _result(config, after, n_missing=len(missing) if goal is not None else None, order_of=before.ids)


def _retrim(config: ConvertConfig, tokens: Path) -> dict[str, Any]:
    from outlex.cli.inspect_target import policy_of, target_facts
    from outlex.formats import read_map, recognise
    from outlex.formats.retrim import retrim
    from outlex.selection.ranking import rank
    from outlex.selection.sources import read_evidence

    drafter = read_map(config.source, config.reading)
    if config.to is not None and config.to.value != drafter.format:
        raise InputError(
            "--retrim keeps the drafter's own format",
            got=f"--to {config.to.value}, a drafter of {drafter.format}",
            next_step="leave --to out, and convert the result's map afterwards",
        )
    goal = target_facts(str(config.tokenizer))
    policy = policy_of(goal)
    if recognise(tokens) is not None:
        listed = read_map(tokens)
        _check_tokenizer(listed.tokenizer_fingerprint, listed.n_tokenizer, goal)
        order = listed.ids
    else:
        order = rank(read_evidence([tokens], facts=goal.facts), facts=goal.facts, must_keep=policy, by="mixture").ids
    done = retrim(
        config.source,
        order=order,
        size=config.size,
        must_keep_ids=policy.ids,
        output=config.output,
        reading=config.reading,
    )
    kept = set(done.ids.tolist())
    n_missing = sum(token_id not in kept and token_id < goal.n_rows for token_id in policy.ids)
    result = _result(config, read_map(config.output), n_missing=n_missing, order_of=None)
    return {**result, "n_before": done.before.n_draft, "n_wanted_without_row": len(done.absent)}


def _check_tokenizer(fingerprint: str | None, n_tokenizer: int | None, goal: TargetFacts) -> None:
    from outlex.errors import MismatchError

    if fingerprint is None or n_tokenizer is None:
        return
    if n_tokenizer > goal.facts.n_entries or goal.facts.fingerprint_of_first(n_tokenizer) != fingerprint:
        raise MismatchError(
            "The map was made for another tokenizer",
            got=f"{n_tokenizer} entries, fingerprint {fingerprint[:12]}",
            expected=f"{goal.name}: {goal.facts.n_entries} entries, fingerprint {goal.facts.fingerprint[:12]}",
            next_step="give the model whose tokens these are as --tokenizer",
        )


def _result(config: ConvertConfig, after: Any, *, n_missing: int | None, order_of: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from outlex.formats.engines import verdicts

    return {
        "input": str(config.source),
        "output": str(config.output),
        "format": after.format,
        "n_draft": after.n_draft,
        "n_target": after.n_target,
        "spelling": after.spelling,
        "order_kept": None if order_of is None else bool(after.ids.equal(order_of)),
        "n_must_keep_missing": n_missing,
        "engines": [asdict(verdict) for verdict in verdicts(after)],
    }


def _print(result: dict[str, Any]) -> None:
    from rich.text import Text

    from outlex.cli.inspect_map import print_engines

    width = "" if result["n_target"] is None else f" for a target head of {result['n_target']:,} rows"
    facts = {
        "written": f"{result['output']} ({result['format']}), read back and compared",
        "rows": f"{result['n_draft']:,}{width}, as {'offsets' if result['spelling'] == 'offsets' else 'absolute ids'}",
    }
    if result["order_kept"] is False:
        facts["order"] = "by id, as this format wants it: the order of ranks is lost"
    if "n_before" in result:
        facts["before"] = f"{result['n_before']:,} rows"
        facts["no row for"] = f"{result['n_wanted_without_row']:,} of the tokens named: the drafter never had them"
    if result["n_must_keep_missing"] is None:
        facts["must-keep"] = "unknown: give --tokenizer MODEL"
    elif result["n_must_keep_missing"]:
        facts["must-keep"] = f"{result['n_must_keep_missing']:,} missing: 'outlex inspect' names them"
    else:
        facts["must-keep"] = "all there"
    print_facts(stdout_console(), facts)
    stdout_console().print(Text("\nWhat the engines would do with it (read in their sources, not run):", style="bold"))
    print_engines(result["engines"])
