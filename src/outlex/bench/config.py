"""What a benchmark measures, checked before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from outlex.bench.environment import publishable
from outlex.bench.transformers_baseline import ALONE
from outlex.errors import InputError
from outlex.sampling import SamplingParams

__all__ = ["BASELINES", "BenchConfig"]

# what trimmed drafters can be compared with, in the order of the table
BASELINES = ("ar", *ALONE, "transformers", "untrimmed")
_NEED_DRAFTER = {"transformers", "untrimmed"}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """One benchmark.

    Attributes:
        target: what `load_model` loads the target by.
        drafter: the same for the drafter; None measures methods without one.
        trimmed: directories of trimmed drafters, each a method of its own.
        cross_tokenizer: the drafter may have another tokenizer.
        prompts: file of JSON lines, see `outlex.bench.workload.read_prompts`.
        n_prompts: use this many, spread over the file's domains; None uses all.
        raw: take text prompts as they are, without the chat template.
        max_new_tokens: tokens of output a prompt, at most.
        ignore_stop_ids: go on after end-of-sequence tokens, so that every run has the same length.
        draft_len: γ.
        baselines: any of `BASELINES`: our loop without drafter; transformers' `generate` alone, with prompt lookup,
            with early exit and with `assistant_model`; our loop with the drafter's whole head.
        temperatures: each is measured on its own; 0 is greedy.
        top_k, top_p, min_p: filters, as in `SamplingParams`.
        repeats: runs of each prompt, temperature and method.
        batch_size: requests that share forward passes. Above 1 acceptance is measured much sooner, with the same law;
            the seconds then say nothing about a request decoded alone.
        seed: of the first run; every other run's seed follows from it.
        dtype, device, threads, cache_dir: as in `load_model`.
        output: the JSON file to write; None writes nothing.

    Raises:
        InputError: a value that cannot be used, or methods that need a drafter without one.
    """

    target: str
    drafter: str | None = None
    trimmed: tuple[str, ...] = ()
    cross_tokenizer: bool = False
    prompts: str | os.PathLike[str]
    n_prompts: int | None = None
    raw: bool = False
    max_new_tokens: int = 64
    ignore_stop_ids: bool = False
    draft_len: int = 4
    baselines: tuple[str, ...] = ("ar", "untrimmed", "transformers")
    temperatures: tuple[float, ...] = (0.0, 1.0)
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeats: int = 1
    batch_size: int = 1
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cache_dir: str | None = field(default=None, repr=False)
    output: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "draft_len", "repeats", "batch_size", "n_prompts"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise _refused(name, value, "an integer >= 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**62:
            raise _refused("seed", self.seed, "0 <= seed < 2**62")
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown or len(set(self.baselines)) < len(self.baselines):
            raise _refused("baselines", list(self.baselines), f"each at most once, from {', '.join(BASELINES)}")
        if not self.baselines and not self.trimmed:
            raise _refused("baselines", "nothing to measure", "at least one baseline or trimmed drafter")
        alone = [name for name in self.baselines if name.startswith("transformers")]
        if self.batch_size > 1 and alone:
            raise InputError(
                "These methods decode one request at a time",
                got=f"{', '.join(alone)} and batch_size {self.batch_size}",
                expected="the baselines ar and untrimmed",
                next_step="give --baselines ar,untrimmed, or leave --batch-size out",
            )
        if self.cross_tokenizer and (self.batch_size > 1 or "transformers" in self.baselines):
            raise InputError(
                "These methods cannot take a drafter with another tokenizer",
                got=f"baselines {', '.join(self.baselines)}, batch_size {self.batch_size}",
                expected=f"requests one at a time, and the baselines ar, {', '.join(ALONE)} and untrimmed",
                next_step="give --baselines ar,untrimmed, and leave --batch-size out",
            )
        temperatures = self.temperatures
        if not temperatures or len(set(temperatures)) < len(temperatures):
            raise _refused("temperatures", list(temperatures), "at least one, each once")
        for temperature in temperatures:
            self.params(temperature)
        needing = [*self.trimmed, *(name for name in self.baselines if name in _NEED_DRAFTER)]
        if self.drafter is None and needing:
            raise InputError(
                "These methods need a drafter",
                got=needing,
                expected=f"a drafter, or only the baselines ar, {', '.join(ALONE)}",
                next_step="give --drafter, or --baselines ar",
            )

    def params(self, temperature: float) -> SamplingParams:
        """How tokens are drawn at a temperature, by every method alike."""
        return SamplingParams(temperature=temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)

    def to_json(self) -> dict[str, Any]:
        """The config as JSON values that may be published: absolute paths are cut to their last part."""
        fields = {**asdict(self), "prompts": os.fspath(self.prompts)}
        del fields["cache_dir"], fields["output"]
        published: dict[str, Any] = publishable(fields)
        return published


def _refused(name: str, got: object, expected: str) -> InputError:
    return InputError(
        f"The benchmark's option {name} cannot be used",
        got=got,
        expected=expected,
        next_step=f"change --{name.replace('_', '-')}",
    )
