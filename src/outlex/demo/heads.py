"""The demo's draft heads: a static list, and where there are texts to fit one to, a head that follows the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outlex.atomic import replace_file
from outlex.calibration.collect import TraceRequest, collect_traces
from outlex.demo.config import DemoConfig
from outlex.demo.ranking import prior_ranking
from outlex.drafters import DraftHeadArtifact, EagleDrafter, FittedHead, TrimmedDrafter, trim
from outlex.drafters.eagle import reader_of, whole_head_of
from outlex.errors import ArtifactError
from outlex.forecast.fitting import JOINING, FitSettings
from outlex.forecast.head_builder import HeadBuilder
from outlex.models import LanguageModel
from outlex.models.output_head import output_head
from outlex.vocab.must_keep import must_keep
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

__all__ = ["DemoHeads", "make_heads"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoHeads:
    """The heads, and the file of token ids that the static one's rows were chosen by."""

    trimmed: TrimmedDrafter
    fitted: FittedHead | None
    ranking: Path

    @property
    def artifacts(self) -> tuple[DraftHeadArtifact, ...]:
        """Each a method of the demo."""
        return (self.trimmed,) if self.fitted is None else (self.trimmed, self.fitted)

    @property
    def best(self) -> DraftHeadArtifact:
        """The one to show texts with."""
        return self.artifacts[-1]


def make_heads(
    config: DemoConfig,
    target: LanguageModel,
    drafter: LanguageModel | EagleDrafter,
    *,
    folder: Path,
    on_note: Callable[[str], None],
) -> DemoHeads:
    """Choose tokens, and fit a head if the config has texts for it.

    The texts are too few to choose a static list by: after 5,500 positions 19 % of what the target writes was not among
    the 8,192 rows that they gave, 7 % with the list that is used.

    Raises:
        InputError: a size or a budget that the drafter's head does not allow.
        MismatchError: two tokenizers.
        ArtifactError: the texts are damaged.
    """
    reads = reader_of(drafter)
    check_same_tokenizer(facts_of(target.tokenizer), facts_of(reads.tokenizer))
    on_note("choosing tokens by the tokenizer's own order and the docstrings of Python's standard library")
    vocab = _prior_vocab(config, target, reads, ranking_file=folder / "ranking.json")
    trimmed = trim(drafter, vocab.with_target_width(target.n_rows))
    if config.calibration is None:
        return DemoHeads(trimmed=trimmed, fitted=None, ranking=folder / "ranking.json")
    on_note("reading texts of the target with both models, to fit a head to")
    requests = _read(config.calibration)
    # another drafter sees other states, and traces name the models by the places that they were loaded from
    place = folder / f"traces-{_digest(config.calibration, target, drafter)}"
    traces = collect_traces(target, drafter, requests, place)
    build = HeadBuilder(
        output_head(target),
        whole_head_of(drafter),
        facts=facts_of(target.tokenizer),
        stop_ids=traces.header.stop_ids,
        settings=FitSettings(method=config.head_method, budget=config.head_budget),
    )
    calibrated = build.calibrated([traces])
    plan = build.plans(min(JOINING, trimmed.base_n_rows // 16))[0]
    fitted = build.heads(calibrated, [plan])[0]
    return DemoHeads(trimmed=trimmed, fitted=fitted, ranking=folder / "ranking.json")


def _prior_vocab(config: DemoConfig, target: LanguageModel, drafter: LanguageModel, *, ranking_file: Path) -> SubVocab:
    facts = facts_of(drafter.tokenizer)
    ids, provenance = prior_ranking(drafter.tokenizer, facts)
    replace_file(ranking_file, json.dumps(ids.tolist()).encode())
    stop_ids = target.stop_ids | drafter.stop_ids
    return SubVocab.from_ranking(
        ids,
        size=config.size,
        facts=facts,
        n_target=min(target.n_rows, drafter.n_rows),  # a row is kept only if both heads have it
        must_keep=must_keep(facts, stop_ids=sorted(i for i in stop_ids if i < facts.n_entries)),
        provenance=provenance,
    )


def _read(path: Path) -> Sequence[TraceRequest]:
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            TraceRequest(
                id=str(line["id"]),
                domain=str(line["domain"]),
                prompt_ids=tuple(line["prompt_ids"]),
                response_ids=tuple(line["answer_ids"]),
            )
            for line in lines
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            "The texts to fit a head to cannot be read",
            got=f"{path.name}: {error}",
            expected="JSON lines with id, domain, prompt_ids and answer_ids",
            next_step="install outlex again: the file comes with it",
        ) from error


def _digest(calibration: Path, target: LanguageModel, drafter: LanguageModel | EagleDrafter) -> str:
    digest = hashlib.sha256(calibration.read_bytes())
    digest.update(json.dumps([target.source, str(target.dtype), drafter.source]).encode())
    source = Path(drafter.source)
    for path in sorted(source.glob("*.safetensors")) if source.is_dir() else ():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
