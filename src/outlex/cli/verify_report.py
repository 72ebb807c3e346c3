"""What `outlex verify` prints: the power of the check before it runs, the verdict afterwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from outlex.cli.output import print_facts, say, stderr_console, stdout_console
from outlex.conformance.check import stated_power
from outlex.conformance.law import Tolerance

if TYPE_CHECKING:
    from outlex.cli.verify_run import Subject
    from outlex.conformance import CheckConfig, Verification
    from outlex.conformance.result import Disagreement, GreedyResult, SampledResult
    from outlex.models import LanguageModel

__all__ = ["print_plan", "print_verdict"]

_N_SHOWN = 5
_N_PREFIX = 8  # tokens of the text before a departure


def print_plan(config: CheckConfig, subject: Subject) -> None:
    """What will be looked at and what would be found, on stderr."""
    facts = {"engine": subject.engine.name, "reference": f"{subject.target.name} in float32"}
    if not config.params.greedy:
        tolerance = Tolerance.of_dtype(subject.engine.dtype, odds=config.odds)
        facts["samples"] = (
            f"at most {config.n_samples} outputs of {config.max_new_tokens} tokens, false-alarm rate"
            f" {config.false_alarm:g} in all; rounding in {subject.engine.dtype} may move the odds of a set of tokens"
            f" by a factor of {math.exp(tolerance.odds):.4f}"
        )
        power = stated_power(config, tolerance, drafter=subject.drafter, draft_ids=subject.draft_ids)
        facts["power"] = _detectable(power)
    print_facts(stderr_console(), facts)


def _detectable(pairs: tuple[tuple[float, float], ...]) -> str:
    return "found with probability 0.9: a set of tokens drawn with " + ", ".join(
        f"{b:.3g} where p is {a:g}" for a, b in pairs
    )


def print_verdict(found: Verification, target: LanguageModel) -> None:
    """The report, on stdout."""
    console = stdout_console()
    facts = {
        "verdict": "lossless so far" if found.lossless_so_far else "the law departs",
        "engine": f"{found.engine} ({found.dtype})",
        "reference": f"{found.target} in float32",
    }
    if found.greedy is not None:
        facts["greedy"] = _greedy(found.greedy)
    if found.sampled is not None:
        facts |= _sampled(found.sampled, target)
    facts["drafts"] = _drafts(found.n_accepted)
    facts["time"] = f"engine {found.engine_s:.0f} s, reference {found.reference_s:.0f} s"
    print_facts(console, facts)
    if found.greedy is not None:
        for one in sorted(found.greedy.disagreements, key=lambda one: one.is_tie)[:_N_SHOWN]:
            say(_disagreement(one, target))


def _drafts(n_accepted: int | None) -> str:
    if n_accepted is None:
        return "the engine does not tell whether it drafted: look at its own counters"
    if n_accepted == 0:
        return "none was accepted: this is the control, and says nothing about speculative decoding"
    return f"{n_accepted} draft tokens were accepted"


def _greedy(found: GreedyResult) -> str:
    ties = len(found.disagreements) - len(found.departures)
    return (
        f"{found.n_equal} of {found.n_prompts} outputs equal ({found.n_tokens} tokens); {ties} ties that rounding"
        f" explains, {len(found.departures)} departures"
    )


def _disagreement(one: Disagreement, target: LanguageModel) -> str:
    return (
        f"prompt {one.prompt}, position {one.position}: {_token(one.got, target)} instead of"
        f" {_token(one.expected, target)}, logit gap {one.gap:.2g}, rounding explains {one.bound:.2g}:"
        f" {'a tie' if one.is_tie else 'a departure'}"
    )


def _sampled(found: SampledResult, target: LanguageModel) -> dict[str, str]:
    bet = found.strongest
    facts = {"samples": f"{found.n_samples} outputs, {found.n_draws} tokens; evidence 10^{found.log10_evidence:.1f}"}
    if found.flagged_at is None:
        facts["samples"] += f", an alarm is at 10^{-math.log10(found.false_alarm):.0f}"
        facts["power"] = _detectable(found.detectable)
        return facts
    facts["flagged"] = (
        f"after {found.flagged_at} outputs ({found.n_draws_at_flag} tokens), with {_token(bet.token_id, target)} at"
        f" position {bet.position} after prompt {bet.prompt}"
    )
    facts["departs"] = (
        f"tokens that are {bet.tokens}: {bet.observed:.4f} of the draws until then, expected {bet.expected:.4f}:"
        f" {bet.direction} (evidence 10^{bet.log10_evidence:.1f} by itself)"
    )
    facts["positions"] = "; ".join(
        f"{share.position}: {share.observed:.3f} for {share.expected:.3f}" for share in bet.by_position[:12]
    )
    place = found.strangest
    if place is not None:
        text = target.decode(list(place.prefix[-_N_PREFIX:]), skip_special=False)
        facts["strangest"] = (
            f"prompt {place.prompt}, position {len(place.prefix)}, after {text!r}: {_token(place.token_id, target)} has"
            f" p = {place.p:.3g} and came {place.n_token} times in {place.n_draws}"
        )
    return facts


def _token(token_id: int, target: LanguageModel) -> str:
    return f"{target.decode([token_id], skip_special=False)!r} ({token_id})"
