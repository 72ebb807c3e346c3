"""The models of a benchmark in memory, and what its result says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outlex.bench.environment import publishable
from outlex.drafters.artifacts import DraftHeadArtifact, load_draft_head
from outlex.drafters.eagle import EagleDrafter
from outlex.errors import InputError
from outlex.formats.eagle_checkpoint import load_pair
from outlex.models.load import load_model

if TYPE_CHECKING:
    from outlex.bench.config import BenchConfig
    from outlex.bench.workload import PromptRecord
    from outlex.models.language_model import LanguageModel

__all__ = ["BenchModels", "check_lengths", "load_models"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchModels:
    """The models of a benchmark, loaded. `config.target`, `.drafter` and `.trimmed` say what they are."""

    target: LanguageModel
    drafter: LanguageModel | EagleDrafter | None = None
    trimmed: tuple[DraftHeadArtifact, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Names, sizes and dtypes, as JSON values."""
        described: dict[str, Any] = {
            role: None if model is None else _eagle(model) if isinstance(model, EagleDrafter) else _model(model)
            for role, model in (("target", self.target), ("drafter", self.drafter))
        }
        described["trimmed"] = [publishable(head.describe()) for head in self.trimmed]
        return described


def _model(model: LanguageModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "source": publishable(model.source),
        "type": model.model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "n_bytes": model.n_bytes,
        "head_bytes": model.head_bytes,
        "n_rows": model.n_rows,
        "n_tokenizer": len(model.tokenizer),
        "hidden_size": model.hidden_size,
    }


def _eagle(drafter: EagleDrafter) -> dict[str, Any]:
    """As `_model`; the bytes are those of the network and of the head, whoever they belong to."""
    config = drafter.checkpoint.config
    return _model(drafter.target) | {
        "name": drafter.name,
        "source": publishable(drafter.source),
        "type": config.kind,
        "n_bytes": sum(part.nbytes for part in drafter.checkpoint.module.parameters()),
        "head_bytes": drafter.full_head.n_bytes,
        "n_rows": drafter.n_rows,
        "hidden_size": config.hidden_size,
    }


def load_models(config: BenchConfig, *, progress: bool) -> BenchModels:
    """Load what a config names; a drafter that is the target is loaded once.

    Raises:
        ModelError, ArtifactError: something cannot be found or is damaged.
    """
    # first, because that is quick and may end in an error
    trimmed = tuple(load_draft_head(path) for path in config.trimmed)

    def load(source: str) -> LanguageModel:
        return load_model(
            source,
            dtype=config.dtype,
            device=config.device,
            threads=config.threads,
            cache_dir=config.cache_dir,
            progress=progress,
        )

    target, drafter = load_pair(config.target, config.drafter, load=load)
    return BenchModels(target=target, drafter=drafter, trimmed=trimmed)


def check_lengths(
    config: BenchConfig, models: BenchModels, records: Sequence[PromptRecord], prompts: Sequence[list[int]]
) -> None:
    """Refuse prompts after which some method would run out of context.

    Raises:
        InputError: names the prompt.
    """
    longest = min(model.max_length for model in (models.target, models.drafter) if model is not None)
    for record, ids in zip(records, prompts, strict=True):
        if len(ids) + config.max_new_tokens > longest:
            raise InputError(
                f"Prompt {record.id!r} leaves no room for {config.max_new_tokens} new tokens in every method",
                got=f"{len(ids)} tokens",
                expected=f"at most {longest - config.max_new_tokens}, so that target and drafter have room",
                next_step="leave the prompt out, or lower --max-new-tokens",
            )
