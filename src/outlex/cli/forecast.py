"""`outlex forecast`: acceptance and speed of trimmed drafters and fitted heads, from traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlex.cli.forecast_times import times_of_bench
from outlex.cli.options import DeviceOption, JsonOption, Machine, ThreadsOption, check_other_prompts
from outlex.cli.output import emit_json, say, stdout_console
from outlex.cli.progress import Ticker
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.calibration.trace_records import TraceHeader
    from outlex.drafters import DraftHeadArtifact
    from outlex.forecast import Forecast, StepTimes
    from outlex.vocab.sub_vocab import SubVocab

__all__ = ["forecast"]


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """One forecast.

    Attributes:
        traces: directories of `outlex trace`, of one pair.
        trimmed: directories of `outlex trim` or `outlex fit-head`.
        tokens, sizes: what ranks the tokens, and how many of the first to try; both or none.
        temperatures: None takes those of the traces.
        draft_lens: γ.
        bench: result of `outlex bench` whose times are taken.
        measure: time the parts on this machine.
        machine: where it runs.

    Raises:
        InputError: options that contradict each other.
    """

    traces: tuple[Path, ...]
    trimmed: tuple[Path, ...]
    tokens: tuple[Path, ...]
    sizes: tuple[int, ...]
    temperatures: tuple[float, ...] | None
    draft_lens: tuple[int, ...]
    bench: Path | None
    measure: bool
    machine: Machine

    def __post_init__(self) -> None:
        if bool(self.tokens) != bool(self.sizes):
            raise InputError(
                "--tokens and --sizes go together",
                got="--sizes without --tokens" if self.sizes else "--tokens without --sizes",
                expected="a ranking, and sizes such as 1024,4096,16384",
                next_step="give both, or --trimmed DIR",
            )
        check_other_prompts(tokens=self.tokens, traces=self.traces)
        if self.bench is not None and self.measure:
            raise InputError(
                "--bench and --measure exclude each other",
                got=f"--bench {self.bench} --measure",
                next_step="leave one of them out",
            )


def forecast(
    traces: Annotated[
        list[Path],
        typer.Option("--traces", help="Directory of `outlex trace`; may be given for several temperatures."),
    ],
    trimmed: Annotated[
        list[Path] | None,
        typer.Option("--trimmed", help="Directory of `outlex trim` or `outlex fit-head`; may be given several times."),
    ] = None,
    tokens: Annotated[
        list[Path] | None,
        typer.Option("--tokens", help="What ranks the tokens, as `outlex trim` takes it, to try --sizes of."),
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Rows to keep of the ranking, with commas between: 1024,4096,16384.")
    ] = "",
    temperature: Annotated[
        list[float] | None,
        typer.Option("--temperature", help="May be given several times. Default: those of the traces."),
    ] = None,
    draft_len: Annotated[
        list[int] | None, typer.Option("--draft-len", min=1, help="May be given several times. Default: 4.")
    ] = None,
    bench: Annotated[
        Path | None, typer.Option("--bench", help="Result of `outlex bench -o` on the machine to forecast for.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time passes and heads on this machine; loads both models.")
    ] = False,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Forecast acceptance, tokens a pass and speed of cheaper draft heads, and say whether they pay.

    Needs the traces and the two LM heads, not the models. Without step times (--bench or --measure) speed is forecast
    from bytes of weights.

    \b
    Example:
      outlex forecast --traces traces --tokens counts.json --sizes 4096,8192,16384 \\
        --bench result.json
      outlex forecast --traces traces --trimmed qwen05-16k --draft-len 3 --draft-len 5
    """
    config = ForecastConfig(
        traces=tuple(traces),
        trimmed=tuple(trimmed or ()),
        tokens=tuple(tokens or ()),
        sizes=_sizes(sizes),
        temperatures=None if not temperature else tuple(temperature),
        draft_lens=tuple(draft_len or (4,)),
        bench=bench,
        measure=measure,
        machine=Machine(device=device, threads=threads),
    )
    result = _run(config)
    if as_json:
        emit_json(result.to_json())
    else:
        from outlex.forecast.table import renderable

        stdout_console().print(renderable(result))


def _sizes(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise InputError(
            "--sizes is not a list of sizes",
            got=repr(text),
            expected="different whole numbers with commas between, such as 1024,4096,16384",
            next_step="correct --sizes",
        )
    return tuple(int(word) for word in words)


def _run(config: ForecastConfig) -> Forecast:
    from outlex.calibration.head_files import load_heads, load_translation
    from outlex.calibration.traces import TraceSet
    from outlex.drafters import load_draft_head
    from outlex.forecast import forecast as make_forecast
    from outlex.models.options import use_threads

    use_threads(config.machine.n_threads)
    # what is quick and may end in an error comes first
    made = [load_draft_head(path) for path in config.trimmed]
    sets = [TraceSet.load(path) for path in config.traces]
    header = sets[0].header
    times = None if config.bench is None else times_of_bench(config.bench)
    vocabs = _vocabs(config, header)
    translation = load_translation(header, device=config.machine.device)
    if header.drafter.head_source is not None:
        _warn_of_eagle(config)
    if config.measure:
        times = _measured(config, header, [*made, *vocabs])
    say("loading the two LM heads ...", style="dim")
    heads = load_heads(header, device=config.machine.device)
    own = tuple(dict.fromkeys(one.temperature for one in sets if one.temperature is not None)) or (1.0,)
    with Ticker() as ticker:
        return make_forecast(
            sets,
            target_head=heads[0],
            drafter_head=heads[1],
            shared=None if translation is None else translation.shared,
            candidates=[*made, *vocabs],
            temperatures=config.temperatures or own,
            draft_lens=config.draft_lens,
            times=times,
            on_progress=ticker.of_total,
        )


def _warn_of_eagle(config: ForecastConfig) -> None:
    """Traces of an EAGLE drafter hold the first draft of each block.

    Raises:
        InputError: its step is to be timed.
    """
    if config.measure:
        raise InputError(
            "The step of an EAGLE drafter cannot be timed without its target's states",
            got="--measure",
            expected="times of 'outlex bench', or none",
            next_step="give --bench RESULT",
        )
    say(
        "an EAGLE drafter reads the target's own states at the first draft of a block only, and only these are traced:"
        " acceptance is that of first drafts, and tokens a pass are at most what is forecast",
        style="yellow",
    )


def _vocabs(config: ForecastConfig, header: TraceHeader) -> list[SubVocab]:
    """The sizes asked for, chosen as `outlex trim` would."""
    from outlex.calibration.head_files import load_tokenizer_facts
    from outlex.selection.ranking import rank
    from outlex.selection.sources import read_evidence
    from outlex.vocab.must_keep import must_keep
    from outlex.vocab.sub_vocab import SubVocab

    if not config.tokens:
        return []
    facts = load_tokenizer_facts(header.drafter)
    one_tokenizer = header.drafter_tokenizer is None
    # with two tokenizers the traces' stop tokens are the target's; a list of the drafter's tokens keeps its own end
    kept = must_keep(facts, stop_ids=[i for i in header.stop_ids if i < facts.n_entries] if one_tokenizer else [])
    ranked = rank(read_evidence(config.tokens, facts=facts), facts=facts, must_keep=kept)
    return [
        SubVocab.from_ranking(
            ranked.ids,
            size=size,
            facts=facts,
            n_target=min(header.target.n_rows, header.drafter.n_rows) if one_tokenizer else header.drafter.n_rows,
            must_keep=kept,
            provenance=ranked.provenance,
        )
        for size in config.sizes
    ]


def _measured(
    config: ForecastConfig, header: TraceHeader, candidates: Sequence[SubVocab | DraftHeadArtifact]
) -> StepTimes:
    from outlex.drafters import TrimmedDrafter
    from outlex.forecast import measure_step_times
    from outlex.forecast.candidates import names_of
    from outlex.vocab.sub_vocab import SubVocab

    config.machine.warn_if_busy()
    machine = Machine(dtype=header.target.dtype, device=config.machine.device, threads=config.machine.threads)
    target = machine.load(header.target.source)
    same = header.drafter.source == header.target.source
    drafter = target if same else machine.load(header.drafter.source)
    with Ticker() as ticker:
        return measure_step_times(
            target,
            drafter,
            sizes=[one.n_draft for one in candidates if isinstance(one, (SubVocab, TrimmedDrafter))],
            draft_lens=config.draft_lens,
            named={
                name: one.head_for(drafter, n_target=target.n_rows)
                for name, one in zip(names_of(candidates), candidates, strict=True)
                if not isinstance(one, (SubVocab, TrimmedDrafter))
            },
            on_progress=ticker.of_total,
        )
