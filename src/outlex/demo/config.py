"""What the demo does, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from outlex.drafters.fitted import Method
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.bench import BenchResult
    from outlex.decode import SpeculativeDecoder

__all__ = ["PAIRS", "SHIPPED", "DemoConfig", "DemoPair", "DemoResult"]

# an EAGLE-3 drafter for SmolLM2-135M-Instruct, and texts to fit heads to; made by examples/train_drafter
SHIPPED = Path(__file__).with_name("drafter")


@dataclass(frozen=True, kw_only=True)
class DemoPair:
    """A target and its drafter, and how long a look at them takes.

    Attributes:
        target: what `load_model` loads it by.
        drafter: the same, or the directory of an EAGLE drafter.
        size: rows of the trimmed head.
        budget_s: seconds of decoding. Except the first, a prompt is begun only if it will probably end in
            time, and every method finishes a prompt that was begun.
        max_new_tokens: tokens of output a prompt.
        baselines: methods to compare with, see `BenchConfig`.
        calibration: file of texts, JSON lines with `id`, `domain`, `prompt_ids` and `answer_ids`: a head is fitted to
            what target and drafter make of them. None compares no fitted head.
    """

    target: str
    drafter: str
    size: int
    budget_s: float
    max_new_tokens: int
    baselines: tuple[str, ...]
    calibration: Path | None = None

    def with_drafter(self, directory: Path | None) -> DemoPair:
        """The pair with an EAGLE drafter of one's own; None leaves the pair's.

        Texts to fit a head to are taken from its `calibration.jsonl`, if there is one.

        Raises:
            InputError: there is none.
        """
        drafter = self.drafter if directory is None else str(directory)
        is_directory = drafter == str(SHIPPED) or directory is not None
        if is_directory and not (Path(drafter) / "config.json").exists():
            raise InputError(
                f"There is no drafter for {self.target} here",
                got="none in this installation" if directory is None else drafter,
                expected="the directory of an EAGLE drafter: --drafter DIR",
                next_step="train one with examples/train_drafter, or take --pair qwen",
            )
        texts = Path(drafter) / "calibration.jsonl"
        return replace(self, drafter=drafter, calibration=texts if is_directory and texts.exists() else None)


PAIRS: Mapping[str, DemoPair] = MappingProxyType(
    {
        "smol": DemoPair(
            target="smol135",
            drafter=str(SHIPPED),
            size=8192,
            budget_s=75.0,
            max_new_tokens=40,
            baselines=("ar", "transformers-lookup", "transformers-early-exit", "untrimmed"),
        ),
        "qwen": DemoPair(
            target="qwen15",
            drafter="qwen05",
            size=16_384,
            budget_s=240.0,
            max_new_tokens=32,
            baselines=("ar", "untrimmed", "transformers"),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(DemoPair):
    """What the demo does: a pair, and how.

    Attributes:
        head_method: of the fitted head, see `FitSettings`.
        head_budget: bytes that a step of the fitted head reads, as a share of the whole head's.
        draft_len: γ.
        temperatures: each is measured on its own.
        dtype, device, threads, cache_dir: as in `load_model`.

    Raises:
        InputError: a budget that is no positive number.
    """

    head_method: Method = "both"
    head_budget: float = 0.06
    draft_len: int = 4
    temperatures: tuple[float, ...] = (0.0, 1.0)
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cache_dir: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise InputError(
                "The demo needs some time",
                got=f"{self.budget_s} s",
                expected="a positive number of seconds",
                next_step="give --budget-s 60 for a short look",
            )


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What came out.

    Attributes:
        bench: the measurement.
        decoder: with the best head, ready to decode more.
        trimmed: directory of the trimmed drafter.
        fitted: directory of the fitted head; None if there is none.
        ranking: file of the token ids that the trimmed head's rows were chosen by.
        prompts, result: files with the demo's prompts and the measurement, for commands to go on with.
        n_draft, n_full: rows of the trimmed head, and of the whole one.
        coverage: of the tokens that the target writes on its own (method "ar", all temperatures), the share
            that is in the draft vocabulary.
        seconds: how long each part took: "models", "heads", "decoding".
    """

    bench: BenchResult
    decoder: SpeculativeDecoder = field(repr=False)
    trimmed: Path
    fitted: Path | None
    ranking: Path
    prompts: Path
    result: Path
    n_draft: int
    n_full: int
    coverage: float
    seconds: dict[str, float]
