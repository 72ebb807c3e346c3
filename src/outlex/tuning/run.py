"""`tune`: fits proposals to one part of the traced prompts, mixes them with TLI on another, compares them on a third.

    prompts ──┬─ fit        kernels, clusters, priors
              ├─ calibrate  λ, and the choice
              └─ held out   the table: no number in it was chosen there

What nothing is fitted for has no use for the first part, so both are there to calibrate it.

TLI is a candidate. Another proposal is chosen only if its gain on the calibration prompts, cross-validated by prompt,
is above 0 with 95 % confidence for all candidates together (Bonferroni), and negative at no temperature. Of those that
pass, the one that gains most is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.calibration.traces import TraceSet
from outlex.drafters.fitted import FittedHead
from outlex.drafters.retokenizing import retokenized_head
from outlex.drafters.stored_proposal import StoredProposal
from outlex.drafters.trimmed import TrimmedDrafter
from outlex.errors import InputError
from outlex.forecast.run import nearest_set
from outlex.proposals import Restoring
from outlex.tuning.choice import choose, cold_estimator, tli_trial, trials_of
from outlex.tuning.evidence import Evidence, gather_evidence
from outlex.tuning.gain_table import GainPlace, gain_table
from outlex.tuning.held_out import compared
from outlex.tuning.recipes import Recipe, recipes_of
from outlex.tuning.result import Comparison, Tuned
from outlex.tuning.settings import TuneSettings, split_prompts

if TYPE_CHECKING:
    from outlex.calibration.head_files import Translation
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead
    from outlex.vocab.sub_vocab import SubVocab
    from outlex.vocab.token_map import TokenMap

__all__ = ["compare", "tune"]

OnProgress = Callable[[int, int, str], None]
Artifact = TrimmedDrafter | FittedHead


def tune(
    traces: Sequence[TraceSet],
    artifact: Artifact,
    *,
    target_head: LinearHead,
    drafter_head: LinearHead,
    translation: Translation | None = None,
    settings: TuneSettings,
    spellings: Sequence[bytes | None] | None = None,
    on_progress: OnProgress | None = None,
) -> Tuned:
    """Fit, calibrate, compare and choose.

    Args:
        traces: of one pair, several temperatures if you like; a temperature is tuned on the nearest.
        artifact: whose scores the proposal will work on.
        target_head, drafter_head: of the traced pair, whole, on one device.
        translation: to the tokens of a target with another tokenizer; None for one tokenizer.
        settings: what to fit.
        spellings: bytes of the target's tokens, for the prefix prior.
        on_progress: called with the positions done, all of the part, and what comes next.

    Raises:
        InputError: too few prompts, greedy decoding only, or a head that has no cold tokens.
        MismatchError: traces, heads and artifact do not belong together.
        NumericalError: logits hold NaN or infinity.
    """
    shared = None if translation is None else translation.shared
    vocab = _checked(traces, artifact, target_head=target_head, drafter_head=drafter_head, shared=shared)
    temperatures = _temperatures(traces, settings)
    split = [split_prompts(one, settings) for one in traces]
    parts = {t: split[nearest_set(traces, t)] for t in temperatures}
    first_ids = None
    if translation is None or shared is None:
        head: DraftHead = artifact.head_from(drafter_head, n_target=target_head.n_rows)
        static_ids = vocab.with_target_width(target_head.n_rows).draft_to_target
    else:
        head = retokenized_head(drafter_head, artifact, shared=shared)
        static_ids = head.token_map.draft_to_target[head.token_map.draft_to_target >= 0]
        first_ids = translation.first_ids[vocab.draft_to_target.to(translation.first_ids.device)]
    found = compare(
        parts,
        head,
        static_ids=static_ids,
        target_head=target_head,
        drafter_head=drafter_head,
        shared=shared,
        first_ids=first_ids,
        recipes=lambda evidence: recipes_of(evidence, settings.family),
        spellings=spellings,
        on_progress=on_progress,
    )
    counts = {
        name: sum(len(part[i].prompts) for part in split) for i, name in enumerate(("fit", "calibrate", "held_out"))
    }
    provenance: dict[str, Any] = {
        "settings": {**vars(settings), "temperatures": list(temperatures)},
        "prompts": counts,
        "chosen": found.chosen.label,
        "reason": found.reason,
        "trials": [trial.to_json() for trial in found.trials],
    }
    stored = StoredProposal(
        proposal=found.chosen.proposal,
        n_target=target_head.n_rows,
        target_tokenizer=None if translation is None else traces[0].header.tokenizer_fingerprint,
        provenance=provenance,
    )
    return Tuned(artifact=replace(artifact, stored=stored), comparison=found, n_prompts=counts)


def compare(
    parts: Mapping[float, tuple[TraceSet, TraceSet, TraceSet]],
    head: DraftHead,
    *,
    static_ids: Tensor,
    target_head: LinearHead,
    drafter_head: LinearHead,
    shared: TokenMap | None = None,
    first_ids: Tensor | None = None,
    recipes: Callable[[Evidence], Sequence[Recipe]],
    spellings: Sequence[bytes | None] | None = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """The same for any draft head, split and recipes.

    Args:
        parts: temperature -> prompts to fit to, to calibrate on, to compare on.
        head: scores the tokens.
        static_ids: int64, tokens that it always has.
        target_head, drafter_head, spellings, on_progress: as in `tune`.
        shared, first_ids: see `Evidence`.
        recipes: what to try.
    """
    report = on_progress or (lambda n_done, n_total, label: None)
    temperatures = tuple(sorted(parts))
    evidence = gather_evidence(
        [parts[temperatures[-1]][0]],
        head,
        static_ids=static_ids,
        target_head=target_head,
        drafter_head=drafter_head,
        shared=shared,
        first_ids=first_ids,
        temperature=temperatures[-1],
        spellings=spellings,
        on_progress=lambda n, total: report(n, total, "reading both laws"),
    )
    chosen_recipes = recipes(evidence)
    fitted: list[tuple[Restoring, float]] = []
    for i, recipe in enumerate(chosen_recipes):
        report(i, len(chosen_recipes), f"fitting {recipe.name}")
        start = time.perf_counter()
        with torch.inference_mode():
            fitted.append((recipe.fit(evidence), time.perf_counter() - start))
    estimator = cold_estimator(evidence)
    places: dict[int, GainPlace] = {}
    for is_fitted in (False, True):
        own = [i for i, recipe in enumerate(chosen_recipes) if recipe.is_fitted == is_fitted]
        if own:
            table = gain_table(
                {t: part[1:2] if is_fitted else part[:2] for t, part in parts.items()},
                head,
                [fitted[i][0] for i in own],
                estimator=estimator,
                target_head=target_head,
                on_progress=lambda n, total: report(n, total, "gains on the calibration prompts"),
            )
            places |= {i: GainPlace(table, column) for column, i in enumerate(own)}
    gains = [places[i] for i in range(len(chosen_recipes))]
    trials = [tli_trial(temperatures), *trials_of(chosen_recipes, fitted, gains, estimator)]
    chosen, reason = choose(trials, gains, chosen_recipes)
    held_out = {t: part[2] for t, part in parts.items()}
    trials = compared(
        trials,
        held_out,
        head,
        target_head=target_head,
        drafter_head=drafter_head,
        on_progress=lambda n, total: report(n, total, "the held-out prompts"),
    )
    return Comparison(trials=tuple(trials), chosen=trials[chosen], reason=reason, held_out=held_out)


def _checked(
    traces: Sequence[TraceSet],
    artifact: Artifact,
    *,
    target_head: LinearHead,
    drafter_head: LinearHead,
    shared: TokenMap | None,
) -> SubVocab:
    if not traces:
        raise InputError("There is nothing to fit to", got="no traces", next_step="make some with `outlex trace`")
    vocab = artifact.vocab
    if vocab is None:
        raise InputError(
            "A preview head has no cold tokens that a proposal could be fitted to",
            got=f"{artifact.name}, which chooses its tokens anew at each position",
            expected="a trimmed drafter, or an in-context head",
            next_step="decode with TLI; a preview already proposes nearly all that the whole head would",
        )
    for one in traces:
        one.check_heads(target_head, drafter_head, cross_tokenizer=shared is not None)
        one.check_vocab(
            artifact.tokenizer_fingerprint, vocab.n_tokenizer, what=artifact.name, of_drafter=shared is not None
        )
    return vocab


def _temperatures(traces: Sequence[TraceSet], settings: TuneSettings) -> tuple[float, ...]:
    own = dict.fromkeys(1.0 if one.temperature is None else one.temperature for one in traces)
    found = tuple(sorted(settings.temperatures or own))
    if max(found) == 0:
        raise InputError(
            "At temperature 0 there is nothing to tune",
            got="greedy decoding only",
            expected="a temperature above 0",
            next_step="decode greedily with TLI: the drafter's arg-max is nearly always kept; or give --temperature 1,"
            " and traces of that temperature",
        )
    return found
