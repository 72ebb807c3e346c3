"""Times bodies, heads and target passes on this machine, taking turns, so that what the machine does hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.decode.stopwatch import now
from outlex.errors import InputError
from outlex.forecast.step_times import StepTimes
from outlex.heads.linear import FullHead
from outlex.models.output_head import output_head
from outlex.models.runner import BodyRunner, TargetRunner
from outlex.proposals.tli import Tli
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import SamplingParams, probabilities
from outlex.verify import verify

if TYPE_CHECKING:
    from outlex.heads.base import DraftHead
    from outlex.models.language_model import LanguageModel

__all__ = ["measure_step_times"]

_Part = tuple[str, int | str, SamplingParams]  # what, of which size or name, and how tokens are drawn
_CONTEXT = 128  # tokens: the passes of a short answer
_SAMPLED, _GREEDY = SamplingParams(), SamplingParams(temperature=0.0)


@torch.inference_mode()
def measure_step_times(
    target: LanguageModel,
    drafter: LanguageModel,
    *,
    sizes: Sequence[int],
    draft_lens: Sequence[int],
    named: Mapping[str, DraftHead] | None = None,
    repeats: int = 7,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> StepTimes:
    """Median seconds of each part, with models as they are loaded and torch's present thread count.

    A draft step is timed as its body plus its head (scores, proposal and draw); which rows a head has does not change
    its time, so the first ones are taken. The drafter's whole head is always among the sizes, and the target alone
    among the draft lengths. A head that follows the request is in the state that a prompt of 128 tokens leaves it in,
    and its draft steps bear their share of what it does once a pass.

    Args:
        target, drafter: the pair, on one device.
        sizes: rows of draft heads.
        draft_lens: γ.
        named: heads of the drafter that are no plain matrix, by the names that the forecast knows them by.
        repeats: turns, after one that warms up.
        on_progress: called with the turns done, all turns, and what comes next.

    Raises:
        InputError: a size or a draft length out of range.
    """
    full = output_head(drafter)
    if any(not 1 <= size <= full.n_rows for size in sizes) or any(n < 1 for n in draft_lens) or repeats < 1:
        raise InputError(
            "These step times cannot be measured",
            got=f"sizes {list(sizes)}, draft lengths {list(draft_lens)}, {repeats} repeats",
            expected=f"sizes from 1 to {full.n_rows}, draft lengths and repeats of at least 1",
            next_step="change --sizes or --draft-len",
        )
    runner, body = TargetRunner(target), BodyRunner(drafter)
    randomness = GeneratorRandomness(seeded_generator(0, target.device))
    context = min(_CONTEXT, runner.max_length - max(draft_lens, default=1) - 1, body.max_length - 1)
    n_shared = min(runner.n_target, full.n_rows)
    prompt = torch.randint(n_shared, (context,), generator=seeded_generator(0)).to(target.device)
    body.forward(prompt)
    hidden, _ = body.forward(prompt[:1])
    heads = {
        n: FullHead(
            full.rows(torch.arange(n, device=target.device)) if n < full.n_rows else full, n_target=runner.n_target
        )
        for n in sorted({*sizes, full.n_rows})
    }
    named = dict(named or {})
    for head in named.values():
        head.begin(prompt.tolist())
    # what verification sees: laws of the whole head
    laws = {params: Tli().law(heads[full.n_rows].score(hidden), params) for params in (_SAMPLED, _GREEDY)}

    def read_prompt(model: BodyRunner | TargetRunner) -> None:
        model.reset()
        if isinstance(model, TargetRunner):
            model.forward(prompt, n_logits=1)
        else:
            model.forward(prompt)

    def target_pass(n_drafts: int, params: SamplingParams) -> None:
        draft_ids = prompt[:n_drafts]
        out = runner.forward(prompt[: n_drafts + 1], n_logits=n_drafts + 1)
        verify(probabilities(out.logits, params), draft_ids, [laws[params]] * n_drafts, randomness)
        runner.rollback(context)

    def draft_body() -> None:
        body.forward(prompt[:1])
        body.rollback(context)

    def draft_head(head: DraftHead, params: SamplingParams) -> None:
        Tli().law(head.score(hidden), params).sample(randomness)

    # reading the prompt also leaves each cache as the passes after it need it
    parts: dict[_Part, Callable[[], None]] = {("target prompt", 0, _SAMPLED): lambda: read_prompt(runner)}
    for params in laws:
        parts |= {("pass", n, params): partial(target_pass, n, params) for n in sorted({0, *draft_lens})}
    parts |= {("draft prompt", 0, _SAMPLED): lambda: read_prompt(body), ("body", 0, _SAMPLED): draft_body}
    for params in laws:
        parts |= {("head", n, params): partial(draft_head, head, params) for n, head in heads.items()}
        parts |= {("named", name, params): partial(draft_head, head, params) for name, head in named.items()}
    shortest = min(draft_lens, default=1)
    verified = runner.forward(prompt[: shortest + 1], n_logits=shortest + 1).logits
    parts |= {
        ("observe", name, _SAMPLED): partial(head.observe, prompt.tolist(), verified) for name, head in named.items()
    }
    seconds: dict[_Part, list[float]] = {part: [] for part in parts}
    for turn in range(repeats + 1):
        if on_progress is not None:
            on_progress(turn, repeats + 1, "timing passes and heads")
        for part, run in parts.items():
            seconds[part].append(_timed(run, hidden))
    middle = {part: median(all_turns[1:]) for part, all_turns in seconds.items()}
    step = middle["body", 0, _SAMPLED]
    once_a_pass = {name: middle["observe", name, _SAMPLED] / shortest for name in named}

    def times(params: SamplingParams, greedy: StepTimes | None) -> StepTimes:
        own = {(part, of): s for (part, of, drawn), s in middle.items() if drawn == params}
        return StepTimes(
            target_pass_s={int(n): s for (part, n), s in own.items() if part == "pass"},
            draft_step_s={int(n): step + s for (part, n), s in own.items() if part == "head"},
            head_step_s={name: step + own["named", name] + once_a_pass[name] for name in named},
            target_prompt_s=middle["target prompt", 0, _SAMPLED] / context,
            draft_prompt_s=middle["draft prompt", 0, _SAMPLED] / context,
            source=f"measured here, {torch.get_num_threads()} threads, medians of {repeats}",
            greedy=greedy,
        )

    return times(_SAMPLED, times(_GREEDY, None))


def _timed(run: Callable[[], None], on_device: Tensor) -> float:
    start = now(on_device.device)
    run()
    return now(on_device.device) - start
