"""What a draft step costs as the target's vocabulary grows and the draft head does not: seconds, proposal by proposal.

Hot tokens, their scores and everything that is fitted keep their sizes; only N grows. A step makes the law, draws a
token and looks its probability up, which is all that happens where a draft is accepted. Beside it stands the whole head
of N rows, which the step is there to avoid. Which rows a head has does not change its time: beyond the pair's own
vocabulary they are the first ones once more. What kernels and distributions hold is drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.affinity import SparseDistributions
from outlex.decode.stopwatch import now
from outlex.proposals import Clusters, ColdRows, DraftScores, Mixed, RdkFirstOrder, Restoring, SparseKernel, Tli
from outlex.proposals.cold_groups import ColdGroups
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.vocab.token_map import TokenMap

if TYPE_CHECKING:
    from outlex.experiments.setup import Setup
    from outlex.heads.linear import LinearHead

__all__ = ["HEAD", "step_rows"]

HEAD = "whole head"
_HOT, _NEIGHBOURS, _CLUSTERS, _RANK = 1024, 16, 256, 8
_N_LAWS, _N_KEPT = 512, 32
_REPEATS = 21
_EVICTING_BYTES = 192 << 20  # more than any cache of the machines this runs on


def step_rows(setup: Setup, widths: list[int]) -> list[dict[str, Any]]:
    """One row a width and proposal; widths at which nothing would be cold are left out."""
    device = setup.target_head.weight.device
    hidden = setup.parts[2].drafter_hidden[:1].to(device, setup.drafter_head.weight.dtype)
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    n_hot = 0
    for n in (n for n in widths if n > widths[0]):
        n_hot = min(_HOT, widths[0])
        head = setup.drafter_head.rows(torch.arange(n, device=device) % setup.drafter_head.n_rows)
        hot = head.rows(torch.arange(n_hot, device=device))
        token_map = TokenMap(torch.arange(n_hot), n_draft=n_hot, n_target=n).to(device)
        scores = DraftScores(logits=hot.logits(hidden), token_map=token_map, hidden=hidden)
        runs[HEAD, n] = partial(head.logits, hidden)
        for name, proposal in _proposals(head, n, n_hot, device).items():
            runs[name, n] = _step(proposal, scores, setup)
    seconds = _in_turns(runs, device)
    return [
        {
            "part": "step times",
            "N": n,
            "n_draft": n if name == HEAD else n_hot,
            "sampler": name,
            "step_s": value,
            "of head": value / seconds[HEAD, n],
        }
        for (name, n), value in seconds.items()
    ]


def _proposals(head: LinearHead, n: int, n_hot: int, device: torch.device) -> dict[str, Restoring | Tli]:
    generator = seeded_generator(n, device)
    ids = torch.arange(n_hot, n, device=device)
    cold = ColdRows(weight=head.weight, bias=head.bias, scale=head.scale, ids=ids)
    groups = torch.arange(len(ids), device=device) % min(_CLUSTERS, len(ids))
    clusters = Clusters(cold=ColdGroups.fit(cold, groups, n_target=n, rank=_RANK))
    sources = torch.arange(n_hot, device=device)
    others = torch.randint(n_hot, n, (n_hot, _NEIGHBOURS - 1), generator=generator, device=device)
    kernel = SparseKernel(
        sources=sources,
        neighbours=torch.cat([sources.unsqueeze(-1), others], -1),
        weights=torch.rand(n_hot, _NEIGHBOURS, generator=generator, device=device) + 0.1,
        n_target=n,
    )
    laws = SparseDistributions(
        ids=torch.randint(n, (_N_LAWS, _N_KEPT), generator=generator, device=device),
        probs=torch.rand(_N_LAWS, _N_KEPT, generator=generator, device=device) + 0.1,
        width=n,
    )
    return {
        "tli": Tli(),
        "sparse-kernel, learned": kernel,
        "clusters, 256, 2nd order": clusters,
        "clusters + tli": Mixed(inner=clusters, weights=((0.3,),)),
        "rdk-first-order": RdkFirstOrder(distributions=laws, temperature=1e-4),
    }


def _step(proposal: Restoring | Tli, scores: DraftScores, setup: Setup) -> Callable[[], Tensor]:
    randomness = GeneratorRandomness(seeded_generator(0, scores.logits.device))

    def run() -> Tensor:
        law = proposal.law(scores, setup.params)
        return law.prob_of(law.sample(randomness))

    return run


def _in_turns(runs: dict[tuple[str, int], Callable[[], object]], device: torch.device) -> dict[tuple[str, int], float]:
    """Median seconds of each; one after the other, again and again, so that a busy machine slows all alike.

    Every one finds cold caches, as in decoding, where a model has passed since the last step. Left alone, a step would
    find what the whole head before it spared, which is less the wider that was.
    """
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    evicting = torch.ones(_EVICTING_BYTES // 4, device=device)
    for _ in range(_REPEATS + 1):
        for key, run in runs.items():
            evicting.add_(1.0)
            start = now(device)
            run()
            seconds[key].append(now(device) - start)
    return {key: median(own[1:]) for key, own in seconds.items()}
