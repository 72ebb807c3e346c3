"""The sampled part of a check: draw in rounds, judge every token, stop when the evidence is there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from outlex.conformance.engines import Engine, checked
from outlex.conformance.result import SampledResult
from outlex.conformance.sampled import SequentialTest
from outlex.sampling import SamplingParams

__all__ = ["run_sampled"]

_FIRST_ROUND = 50


def run_sampled(
    engine: Engine,
    test: SequentialTest,
    prompts: Sequence[Sequence[int]],
    *,
    params: SamplingParams,
    n_samples: int,
    max_new_tokens: int,
    n_target: int,
    seed: int,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> SampledResult:
    """Draw outputs, the prompts in turn, and judge them, until the evidence is there or `n_samples` were drawn.

    Rounds grow: a gross fault is found after the first, 50 outputs, and texts that many outputs share are evaluated
    once a round.

    Raises:
        ModelError: the engine failed.
    """
    round_size = _FIRST_ROUND
    while test.n_samples < n_samples and test.flagged_at is None:
        if on_progress is not None:
            on_progress(test.n_samples, n_samples, f"evidence 10^{test.log_evidence / math.log(10):.1f}")
        start = test.n_samples
        numbers = [i % len(prompts) for i in range(start, min(start + round_size, n_samples))]
        outputs: dict[int, list[tuple[int, ...]]] = {}
        for number, n_wanted in sorted(Counter(numbers).items()):
            drawn = engine.sample(
                prompts[number],
                params=params,
                n_samples=n_wanted,
                max_new_tokens=max_new_tokens,
                # outputs start … start + n_wanted - 1 of this prompt: no other call gets a seed of these
                seed=seed + number * n_samples + start,
            )
            outputs[number] = checked(drawn, n_samples=n_wanted, max_new_tokens=max_new_tokens, n_target=n_target)
        test.judge([(number, outputs[number].pop(0)) for number in numbers])
        round_size *= 2
    return test.result()
