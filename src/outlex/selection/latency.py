"""The time of a draft step as a function of its head rows, measured on this machine.

FLOPs and bytes say what a step needs at best. What it takes depends on caches, threads and the library, and small heads
gain more than their share: this model measures instead. t(k) = t_rest + t_head(k), both medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from outlex.decode.stopwatch import now
from outlex.errors import InputError
from outlex.heads.linear import LinearHead
from outlex.models.output_head import output_head
from outlex.models.runner import BodyRunner
from outlex.selection.pareto import thinned

if TYPE_CHECKING:
    from outlex.models.load import LanguageModel

__all__ = ["LatencyCost", "fit_latency", "measure_latency"]

_SMALLEST = 64
_N_SIZES = 12
_N_ROUNDS = 21
_N_CONTEXT = 32  # tokens in front of the timed step


@dataclass(frozen=True, kw_only=True)
class LatencyCost:
    """Seconds of a draft step at any size: a line through measured points (protocol `Cost`).

    Attributes:
        sizes: sizes that were measured, ascending, the last one the untrimmed head.
        head_s: seconds of the head at each, made monotone.
        measured_s: the medians as they were measured.
        rest_s: seconds of the rest of the step.
        n_rounds: how often each was measured.
        threads, dtype, device: on what.

    Raises:
        InputError: sizes or times that cannot be.
    """

    sizes: tuple[int, ...]
    head_s: tuple[float, ...]
    measured_s: tuple[float, ...]
    rest_s: float
    n_rounds: int
    threads: int
    dtype: str
    device: str
    unit: str = "seconds"

    def __post_init__(self) -> None:
        times = (self.rest_s, *self.head_s)
        fine = (
            len(self.sizes) == len(self.head_s) == len(self.measured_s) >= 2
            and list(self.sizes) == sorted(set(self.sizes))
            and self.sizes[0] >= 1
            and list(self.head_s) == sorted(self.head_s)
            and all(0 <= seconds < float("inf") for seconds in times)
            and self.rest_s + self.head_s[0] > 0
        )
        if not fine:
            raise InputError(
                "These are not the times of a head",
                got=f"sizes {self.sizes[:5]}, seconds {self.head_s[:5]}, rest {self.rest_s}",
                expected="two sizes or more, ascending, and times that do not fall",
                next_step="use fit_latency, which makes them monotone",
            )

    @property
    def n_rows(self) -> int:
        return self.sizes[-1]

    def of(self, sizes: Tensor) -> Tensor:
        """Below the smallest measured size its own time: a matrix product has a start-up cost."""
        return torch.from_numpy(self.rest_s + np.interp(sizes.numpy(), self.sizes, self.head_s))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_latency(
    seconds: Tensor, *, sizes: Sequence[int], rest_s: float, threads: int, dtype: str, device: str
) -> LatencyCost:
    """Medians over rounds, then the closest sequence that does not fall (isotonic regression).

    Args:
        seconds: float64 ``[n_rounds, n_sizes]``.
        sizes: ``[n_sizes]``, ascending.
        rest_s, threads, dtype, device: as in `LatencyCost`.
    """
    from scipy.optimize import isotonic_regression

    medians = np.median(seconds.numpy(), axis=0)
    return LatencyCost(
        sizes=tuple(sizes),
        head_s=tuple(isotonic_regression(medians).x.tolist()),
        measured_s=tuple(medians.tolist()),
        rest_s=rest_s,
        n_rounds=seconds.shape[0],
        threads=threads,
        dtype=dtype,
        device=device,
    )


@torch.inference_mode()
def measure_latency(
    loaded: LanguageModel, *, n_sizes: int = _N_SIZES, n_rounds: int = _N_ROUNDS, seed: int = 0
) -> LatencyCost:
    """Time the drafter's head at several sizes and the rest of its step, in turn within each round.

    Taking turns makes a slow second of the machine hit all of them alike. The rows are the first of the head: which
    rows they are does not change the time.

    Args:
        loaded: the drafter, with its dtype, device and threads.
        n_sizes: sizes to measure, in equal ratios.
        n_rounds: after one round that only warms up.
        seed: of the hidden state and the context.

    Raises:
        ModelError: the head cannot be sliced, or the cache cannot be rolled back.
    """
    head, generator = output_head(loaded), torch.Generator().manual_seed(seed)
    width = head.weight.shape[1]
    hidden = torch.randn(1, width, generator=generator).to(loaded.device, loaded.dtype)
    sizes = thinned(min(_SMALLEST, head.n_rows), head.n_rows, n=n_sizes)
    steps = [_head_step(head, size, hidden) for size in sizes]
    steps.append(_rest_step(loaded, torch.randint(head.n_rows, (_N_CONTEXT + 1,), generator=generator)))
    rounds = [[_seconds(step, loaded.device) for step in steps] for _ in range(n_rounds + 1)][1:]
    times = torch.tensor(rounds, dtype=torch.float64)
    return fit_latency(
        times[:, :-1],
        sizes=sizes,
        rest_s=float(times[:, -1].median()),
        threads=torch.get_num_threads(),
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
    )


def _head_step(head: LinearHead, size: int, hidden: Tensor) -> Callable[[], object]:
    # a view of the first rows: contiguous, and no copy of a matrix of hundreds of megabytes
    bias = None if head.bias is None else head.bias[:size]
    part = LinearHead(weight=head.weight[:size], bias=bias, scale=head.scale, softcap=head.softcap)
    return lambda: part.logits(hidden)


def _rest_step(loaded: LanguageModel, ids: Tensor) -> Callable[[], object]:
    body = BodyRunner(loaded)
    context = (ids % body.n_embeddings).to(loaded.device)
    body.forward(context[:-1])

    def step() -> None:
        body.forward(context[-1:])
        body.rollback(context.numel() - 1)

    return step


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    start = now(device)
    step()
    return now(device) - start
