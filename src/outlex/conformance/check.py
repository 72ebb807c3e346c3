"""A whole check of an engine: greedy outputs first, then sampled ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from torch import Tensor

from outlex.conformance.aims import bets_on, default_aims
from outlex.conformance.betting import detectable_shares
from outlex.conformance.engines import CountsDrafts, Engine
from outlex.conformance.greedy import check_greedy
from outlex.conformance.law import Tolerance
from outlex.conformance.reference import Reference
from outlex.conformance.result import Verification
from outlex.conformance.rounds import run_sampled
from outlex.conformance.sampled import SequentialTest
from outlex.errors import InputError
from outlex.sampling import SamplingParams

__all__ = ["CheckConfig", "stated_power", "verify_engine"]


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What is asked of an engine and how hard it is looked at.

    Attributes:
        params: the law; temperature 0 checks greedy outputs alone.
        n_samples: sampled outputs at most, over all prompts.
        max_new_tokens: tokens of a sampled output.
        greedy_tokens: tokens of a greedy output; 0 leaves this part out.
        false_alarm: of the sequential test.
        odds: ε; None takes what is usual for the engine's dtype.
        seed: of the first output.
    """

    params: SamplingParams = field(default_factory=SamplingParams)
    n_samples: int = 2000
    max_new_tokens: int = 8
    greedy_tokens: int = 32
    false_alarm: float = 0.01
    odds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        fine = self.n_samples >= 1 and self.max_new_tokens >= 1 and self.greedy_tokens >= 0
        if not fine or not 0 < self.false_alarm < 1:
            raise InputError(
                "The check cannot be run like this",
                got=f"{self.n_samples} samples of {self.max_new_tokens} tokens, {self.greedy_tokens} greedy tokens,"
                f" false-alarm rate {self.false_alarm}",
                expected="at least one sample of one token, greedy tokens >= 0, a false-alarm rate between 0 and 1",
                next_step="2000 samples of 8 tokens at a false-alarm rate of 0.01 are usual",
            )
        if self.params.greedy and not self.greedy_tokens:
            raise InputError(
                "Nothing is left to check",
                got="temperature 0 and no greedy tokens",
                expected="a temperature above 0, or greedy tokens",
                next_step="leave --greedy-tokens out",
            )


def stated_power(
    config: CheckConfig, tolerance: Tolerance, *, drafter: Reference | None, draft_ids: Tensor | None
) -> tuple[tuple[float, float], ...]:
    """What the sampled part finds with power 0.9, before anything is drawn: see `SampledResult.detectable`."""
    aims = default_aims(1, draft_ids=None if draft_ids is None else draft_ids[:0], has_drafter=drafter is not None)
    return detectable_shares(
        n_draws=config.n_samples * config.max_new_tokens,
        n_bets=len(bets_on(aims)),
        odds=tolerance.odds,
        false_alarm=config.false_alarm,
    )


class _Timed:
    """An engine and the seconds that it took."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.dtype = engine.name, engine.dtype
        self.engine_s = 0.0
        self._engine = engine

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        began = time.perf_counter()
        outputs = self._engine.sample(
            prompt_ids, params=params, n_samples=n_samples, max_new_tokens=max_new_tokens, seed=seed
        )
        self.engine_s += time.perf_counter() - began
        return outputs


def verify_engine(
    engine: Engine,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    config: CheckConfig,
    *,
    target_name: str,
    drafter: Reference | None = None,
    draft_ids: Tensor | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Verification:
    """Judge an engine by the reference.

    Args:
        engine: the black box.
        reference: the target in float32.
        prompts: token ids.
        config: how.
        target_name: for the report.
        drafter, draft_ids: as in `SequentialTest`: what is known of the drafter sharpens the test.
        on_progress: called with outputs done, outputs in all, and a label.

    Raises:
        ModelError: the engine failed.
        InputError: no prompts, or a dtype that is not known.
    """
    if not prompts:
        raise InputError("There are no prompts", expected="at least one", next_step="give a file with --prompts")
    tolerance = Tolerance.of_dtype(engine.dtype, odds=config.odds)
    greedy = sampled = None
    began, timed = time.perf_counter(), _Timed(engine)
    if config.greedy_tokens:
        greedy = check_greedy(
            timed,
            reference,
            prompts,
            max_new_tokens=config.greedy_tokens,
            repetition_penalty=config.params.repetition_penalty,
        )
    if not config.params.greedy:
        test = SequentialTest(
            reference,
            prompts,
            params=config.params,
            tolerance=tolerance,
            drafter=drafter,
            draft_ids=draft_ids,
            false_alarm=config.false_alarm,
        )
        sampled = run_sampled(
            timed,
            test,
            prompts,
            params=config.params,
            n_samples=config.n_samples,
            max_new_tokens=config.max_new_tokens,
            n_target=reference.n_target,
            seed=config.seed,
            on_progress=on_progress,
        )
    return Verification(
        engine=engine.name,
        target=target_name,
        dtype=engine.dtype,
        params=asdict(config.params),
        greedy=greedy,
        sampled=sampled,
        n_accepted=engine.n_accepted if isinstance(engine, CountsDrafts) else None,
        engine_s=timed.engine_s,
        reference_s=time.perf_counter() - began - timed.engine_s,
    )
