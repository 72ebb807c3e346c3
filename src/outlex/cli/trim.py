"""`outlex trim`: choose the draft vocabulary, cut its LM-head rows out of a drafter, write the artifact."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.options import MODEL_HELP, DeviceOption, DtypeOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import emit_json, say
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.models import LanguageModel
    from outlex.selection.cost import Cost
    from outlex.selection.plan import SizePlan
    from outlex.selection.ranking import Ranked
    from outlex.selection.size import SizeGoal
    from outlex.vocab.must_keep import MustKeep
    from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["trim"]

AUTO = "auto"
_PANEL = "With --size auto"


class RankName(str, Enum):
    """What orders the tokens."""

    mixture = "mixture"
    counts = "counts"
    variance = "variance"


class Objective(str, Enum):
    """What R(k) saves."""

    flops = "flops"
    bytes = "bytes"
    latency = "latency"


class SearchName(str, Enum):
    """How the best size is found."""

    exact = "exact"
    tpe = "tpe"


@dataclass(frozen=True, kw_only=True)
class SizeSearch:
    """What `--size auto` maximises.

    Attributes:
        goal: α and the limits.
        objective: what a smaller head saves.
        search: exact or TPE.
        seed: of TPE.
    """

    goal: SizeGoal
    objective: Objective
    search: SearchName
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrimConfig:
    """One trim.

    Attributes:
        drafter: what `load_model` loads it by.
        tokens: sources, see `outlex.selection.sources.read_evidence`.
        report_on: sources of another split, whose coverage is reported.
        rank: what orders the tokens.
        size: rows to keep, or how to choose them.
        output: directory of the artifact.
        target: the model it will draft for; None takes the drafter's own width.
        keep: ids or tokens to keep whatever the ranking says.
        machine: where the models are loaded.

    Raises:
        InputError: a source does not exist.
    """

    drafter: str
    tokens: tuple[Path, ...]
    report_on: tuple[Path, ...]
    rank: RankName
    size: int | SizeSearch
    output: Path
    target: str | None
    keep: tuple[str, ...]
    machine: Machine

    def __post_init__(self) -> None:
        for option, paths in (("--tokens", self.tokens), ("--report-on", self.report_on)):
            for path in paths:
                if not path.exists():
                    raise InputError(
                        "There is no such token list", got=path, next_step=f"check the path given as {option}"
                    )


def trim(
    drafter: Annotated[str, typer.Argument(help=f"The drafter: {MODEL_HELP}.")],
    tokens: Annotated[
        list[Path],
        typer.Option(
            "--tokens",
            help="Which tokens are needed most; may be given several times, and the counts are added up. Statistics of"
            " 'outlex count', a directory of 'outlex trace' (then by the target's mean probability), a JSON object of"
            " counts by id, lines 'id TAB count', a safetensors file with 'counts'; or, alone and with a fixed size,"
            " a JSON list of ids, lines 'id', or a sub-vocabulary directory.",
        ),
    ],
    size: Annotated[str, typer.Option("--size", help="Rows to keep, or 'auto': the best trade of coverage and cost.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Directory to write; an artifact in it is replaced as a whole."),
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", help="The model it will draft for: checks the tokenizers, takes its width."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="A token or token id that must stay; may be given several times."),
    ] = None,
    rank: Annotated[
        RankName,
        typer.Option(
            "--rank",
            help="What orders the tokens: mixture (counts, and the tokenizer's own order for what was seen little),"
            " counts alone, or the variance of the target's probability (needs traces).",
        ),
    ] = RankName.mixture,
    report_on: Annotated[
        list[Path] | None,
        typer.Option(
            "--report-on", help="Sources of another split, as for --tokens: the coverage of these is reported as well."
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="Weight of coverage against cost, 0 to 1 (default 0.5).", rich_help_panel=_PANEL),
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option("--min-coverage", help="Cover at least this share of the tokens.", rich_help_panel=_PANEL),
    ] = None,
    min_size: Annotated[
        int | None, typer.Option("--min-size", help="Keep at least so many rows.", rich_help_panel=_PANEL)
    ] = None,
    max_size: Annotated[
        int | None, typer.Option("--max-size", help="Keep at most so many rows.", rich_help_panel=_PANEL)
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(
            "--objective",
            help="What fewer rows save: flops (default) and bytes of a draft step, or its latency, measured here.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    search: Annotated[
        SearchName | None,
        typer.Option("--search", help="exact (default), or tpe as in the paper; needs Optuna.", rich_help_panel=_PANEL),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of --search tpe.", rich_help_panel=_PANEL)] = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Trim a drafter's LM head to the tokens that matter.

    End, special, byte, digit and whitespace tokens always stay. The input embeddings are not touched, so the
    drafter still reads every token; it only proposes fewer.

    \b
    Example:
      outlex trim qwen05 --tokens counts.json --size 16384 -o qwen05-16k
      outlex trim qwen05 --tokens stats.safetensors --size auto --report-on held-out.safetensors -o qwen05-auto
    """
    from outlex.cli.trim_report import print_report

    options = {
        "--alpha": alpha,
        "--min-coverage": min_coverage,
        "--min-size": min_size,
        "--max-size": max_size,
        "--objective": objective,
        "--search": search,
        "--seed": seed,
    }
    config = TrimConfig(
        drafter=drafter,
        tokens=tuple(tokens),
        report_on=tuple(report_on or ()),
        rank=rank,
        size=_size(size, {name: value for name, value in options.items() if value is not None}),
        output=output,
        target=target,
        keep=tuple(keep or ()),
        machine=Machine(dtype=dtype, device=device, threads=threads),
    )
    result = _run(config)
    if as_json:
        emit_json(result)
    else:
        print_report(result)


def _size(text: str, options: dict[str, Any]) -> int | SizeSearch:
    """What --size says, together with the options that only make sense with "auto"."""
    from outlex.selection.size import SizeGoal

    if text == AUTO:
        goal = {
            "alpha": "--alpha",
            "min_coverage": "--min-coverage",
            "min_size": "--min-size",
            "max_size": "--max-size",
        }
        return SizeSearch(
            goal=SizeGoal(**{name: options[option] for name, option in goal.items() if option in options}),
            objective=options.get("--objective", Objective.flops),
            search=options.get("--search", SearchName.exact),
            seed=options.get("--seed", 0),
        )
    if options:
        raise InputError(
            f"{', '.join(options)} only make sense when the size is searched for",
            got=f"--size {text}",
            expected=f"--size {AUTO}",
            next_step=f"give --size {AUTO}, or leave them out",
        )
    try:
        return int(text)
    except ValueError as error:
        raise InputError(
            "This is no size",
            got=f"--size {text}",
            expected=f"a whole number, or {AUTO}",
            next_step=f"give the rows to keep, such as --size 16384, or --size {AUTO}",
        ) from error


def _run(config: TrimConfig) -> dict[str, Any]:
    from outlex.artifact import check_destination
    from outlex.cli.trim_report import report
    from outlex.drafters.trimmed import KIND
    from outlex.drafters.trimmed import trim as trim_drafter
    from outlex.models.output_head import output_head
    from outlex.selection.evidence import Evidence, check_apart
    from outlex.selection.ranking import rank
    from outlex.selection.sources import read_evidence
    from outlex.vocab.must_keep import must_keep
    from outlex.vocab.sub_vocab import SubVocab
    from outlex.vocab.tokenizer_facts import facts_of

    check_destination(config.output, kind=KIND)
    drafter = config.machine.load(config.drafter)
    facts = facts_of(drafter.tokenizer)
    source = read_evidence(config.tokens, facts=facts)
    reported = read_evidence(config.report_on, facts=facts) if config.report_on else None
    if reported is not None and not isinstance(reported, Evidence):
        raise InputError(
            "Coverage needs counts",
            got=f"{config.report_on[0]}, a list without counts",
            expected="counts, statistics or traces",
            next_step="count another part of the corpus with 'outlex count', and give that file as --report-on",
        )
    if isinstance(source, Evidence) and reported is not None:
        check_apart(source, reported)
    full = output_head(drafter)
    n_target, stop_ids = full.n_rows, drafter.stop_ids
    if config.target is not None and config.target != config.drafter:
        n_target, target_stop_ids = _read_target(config.target, config.machine, facts)
        stop_ids |= target_stop_ids
    kept = must_keep(
        facts,
        stop_ids=sorted(i for i in stop_ids if i < facts.n_entries),
        extra_ids=[_token_id(word, drafter) for word in config.keep],
    )
    n_shared = min(n_target, full.n_rows)  # a row is kept only if both heads have it
    ranked = rank(source, facts=facts, must_keep=kept, by=config.rank.value)
    if isinstance(config.size, SizeSearch):
        plan = _plan(config.size, ranked, drafter, facts=facts, n_target=n_shared, kept=kept, machine=config.machine)
        size = plan.choice.size
    else:
        plan, size = None, config.size
    vocab = SubVocab.from_ranking(
        ranked.ids,
        size=size,
        facts=facts,
        n_target=n_shared,
        must_keep=kept,
        provenance={**ranked.provenance, **({} if plan is None else {"size_search": plan.to_json()})},
    ).with_target_width(n_target)
    trimmed = trim_drafter(drafter, vocab)
    trimmed.save(config.output)
    return report(
        trimmed,
        output=config.output,
        command=["--target", config.target or "TARGET", "--drafter", config.drafter],
        kept=kept,
        facts=facts,
        evidence=source if isinstance(source, Evidence) else None,
        reported=reported,
        ranked=ranked,
        plan=plan,
        full_bytes=full.n_bytes,
    )


def _plan(
    settings: SizeSearch,
    ranked: Ranked,
    drafter: LanguageModel,
    *,
    facts: TokenizerFacts,
    n_target: int,
    kept: MustKeep,
    machine: Machine,
) -> SizePlan:
    from outlex.selection.plan import curve_of, plan_size

    curve = curve_of(ranked, facts=facts, n_target=n_target, must_keep=kept)
    cost = _cost(settings.objective, drafter, machine)
    return plan_size(curve, cost, settings.goal, search_by=settings.search.value, seed=settings.seed)


def _cost(objective: Objective, drafter: LanguageModel, machine: Machine) -> Cost:
    if objective is Objective.flops:
        from dataclasses import replace

        from outlex.selection.architecture import shape_of

        return replace(shape_of(drafter.model.config), n_rows=drafter.n_rows).flops()
    if objective is Objective.bytes:
        from outlex.selection.cost import weight_bytes

        return weight_bytes(drafter)
    from outlex.selection.latency import measure_latency

    machine.warn_if_busy()
    say("measuring the drafter's step at several sizes ...", style="dim")
    return measure_latency(drafter)


def _read_target(source: str, machine: Machine, facts: TokenizerFacts) -> tuple[int, frozenset[int]]:
    """Width and stop ids of the target. Its weights are let go at once: they are not needed to trim."""
    from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

    target = machine.load(source)
    check_same_tokenizer(facts_of(target.tokenizer), facts)
    return target.n_rows, target.stop_ids


def _token_id(word: str, drafter: LanguageModel) -> int:
    """A number is an id; anything else is a token as the tokenizer writes it, or text that is one token."""
    if word.isdecimal():
        return int(word)
    piece_id = drafter.tokenizer.get_vocab().get(word)
    if piece_id is not None:
        return int(piece_id)
    ids = drafter.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        pieces = drafter.tokenizer.convert_ids_to_tokens(ids)
        raise InputError(
            "--keep takes one token at a time",
            got=f"{word!r}, which is {len(ids)} tokens: {' '.join(map(repr, pieces))}",
            expected="a token id, or text that is a single token",
            next_step="give --keep once for each of these tokens",
        )
    return ids[0]
