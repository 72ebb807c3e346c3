"""`outlex experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlex.cli.fit import Family, limited
from outlex.cli.options import DeviceOption, JsonOption, Machine, ThreadsOption, check_other_prompts
from outlex.cli.output import emit_json, say, stdout_console
from outlex.cli.progress import Ticker
from outlex.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from outlex.experiments import ExperimentResult
    from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["experiment"]

_PRUNED = (0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999)


class ExperimentName(str, Enum):
    """Experiments."""

    pruning = "pruning"
    scaling = "scaling"
    priors = "priors"
    skewed = "skewed"
    cascade = "cascade"
    decomposition = "decomposition"
    greedy = "greedy"


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment.

    Attributes:
        name: which.
        traces: directory of `outlex trace`.
        tokens: what ranks the tokens; nothing ranks by the traces' own fitting part.
        pruned: shares of the rows to prune.
        family, temperature, seed: see `outlex.experiments.Setup`.
        limit: prompts; None takes all.
        output: directory for the JSON.
        machine: where the heads are loaded.

    Raises:
        InputError: shares that are none, or a ranking from the same prompts.
    """

    name: str
    traces: Path
    tokens: tuple[Path, ...]
    pruned: tuple[float, ...]
    family: str
    temperature: float
    seed: int
    limit: int | None
    output: Path
    machine: Machine

    def __post_init__(self) -> None:
        check_other_prompts(tokens=self.tokens, traces=(self.traces,))
        if not all(0 <= share < 1 for share in self.pruned):
            raise InputError(
                "These shares of the rows cannot be pruned",
                got=list(self.pruned),
                expected="numbers from 0 to below 1",
                next_step="0.99 keeps one row in a hundred; 0 is for drafters with another tokenizer",
            )

    def sizes(self, n_shared: int) -> tuple[int, ...]:
        """Rows that are kept, of those that stand for tokens of the target."""
        return tuple(dict.fromkeys(max(1, round((1 - share) * n_shared)) for share in self.pruned))


def experiment(
    name: Annotated[ExperimentName, typer.Argument(help="Which one.")],
    traces: Annotated[Path, typer.Option(help="Directory of `outlex trace`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write NAME.json to.")],
    tokens: Annotated[
        list[Path] | None,
        typer.Option(help="What ranks the tokens, as `outlex trim` takes it. Default: the traces' fitting part."),
    ] = None,
    pruned: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of the rows to prune; may be given several times. Default: 0.99, and for pruning a"
            " range up to 0.999."
        ),
    ] = None,
    proposal: Annotated[Family, typer.Option(help="Proposals to try, as in `outlex fit`.")] = Family.auto,
    temperature: Annotated[float, typer.Option(help="Of both laws, above 0.")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many prompts, evenly spaced.")] = None,
    seed: Annotated[int, typer.Option(help="Of splits and of synthetic pairs.")] = 0,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Find out where sampling tokens outside of the draft vocabulary wins, where it loses, and why.

    pruning: acceptance against pruning, every sampler, per domain. scaling: RDK exact against first order, quality and
    time. priors: ablation of the prior. skewed: foreign domains, rare text, Zipf laws. cascade: a trimmed drafter
    verified by the whole one, verified by the target. decomposition: gain on cold tokens against renormalisation bonus.
    greedy: drafts that are an arg-max.

    \b
    Example:
      outlex experiment pruning --traces traces -o experiments
      outlex experiment decomposition --traces traces --pruned 0.9 --pruned 0.99 -o experiments
    """
    default = _PRUNED if name is ExperimentName.pruning else (0.99,)
    config = ExperimentConfig(
        name=name.value,
        traces=traces,
        tokens=tuple(tokens or ()),
        pruned=tuple(pruned or default),
        family=proposal.value,
        temperature=temperature,
        seed=seed,
        limit=limit,
        output=output,
        machine=Machine(device=device, threads=threads),
    )
    result = _run(config)
    path = result.save(config.output)
    if as_json:
        emit_json(result.to_json())
    else:
        stdout_console().print(result.renderable())
        say(f"written to {path}")


def _run(config: ExperimentConfig) -> ExperimentResult:
    from outlex.calibration.head_files import load_heads, load_tokenizer_facts, load_translation
    from outlex.calibration.traces import TraceSet
    from outlex.experiments import Setup, run_experiment
    from outlex.models.options import use_threads
    from outlex.vocab.tokenizer_facts import piece_bytes

    use_threads(config.machine.n_threads)
    traces = limited(TraceSet.load(config.traces), config.limit)
    header = traces.header
    translation = load_translation(header, device=config.machine.device)
    # everything is about tokens of the target; with one tokenizer the drafter's may know fewer of them
    facts = load_tokenizer_facts(header.drafter if translation is None else header.target)
    ranking = _ranking(config, facts, stop_ids=header.stop_ids)
    n_shared = header.drafter.n_rows
    if translation is not None:
        n_shared = int((translation.shared.draft_to_target >= 0).sum())
    say("loading the two LM heads ...", style="dim")
    target_head, drafter_head = load_heads(header, device=config.machine.device)
    with Ticker() as ticker:
        return run_experiment(
            config.name,
            Setup(
                traces=traces,
                target_head=target_head,
                drafter_head=drafter_head,
                translation=translation,
                spellings=piece_bytes(facts),
                ranking=ranking,
                sizes=config.sizes(n_shared),
                family=config.family,
                temperature=config.temperature,
                seed=config.seed,
                on_progress=ticker.of_total,
            ),
        )


def _ranking(config: ExperimentConfig, facts: TokenizerFacts, *, stop_ids: Sequence[int]) -> Tensor | None:
    from outlex.selection.ranking import rank
    from outlex.selection.sources import read_evidence
    from outlex.vocab.must_keep import must_keep

    if not config.tokens:
        return None
    kept = must_keep(facts, stop_ids=[i for i in stop_ids if i < facts.n_entries])
    return rank(read_evidence(config.tokens, facts=facts), facts=facts, must_keep=kept).ids
