"""A round of prompts: what the target writes itself, templates filled by code, and tasks about installed packages."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from package_texts import package_prompts
from prompt_seeds import KINDS, filled_template, opening
from slots import Job, sample_jobs

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["candidate_prompts"]

_SHARES = {"self": 0.6, "template": 0.2, "package": 0.2}
_TEMPERATURE = 0.8  # of self-written prompts: at 1 a small model loses the thread
_TOKENS = {
    "question": 40,
    "mathematics": 120,
    "code": 140,
    "translation": 90,
    "summary": 300,
    "passage": 300,
    "free": 120,
}
_QUESTIONS = ("What is this text about?", "Who is mentioned in the text?", "When did this happen?", "Where is it?")


def candidate_prompts(
    target: LanguageModel, *, n_prompts: int, round_number: int, seed: int, n_slots: int
) -> Iterator[tuple[str, str, str]]:
    """Prompts of one round, before repetitions are left out.

    Args:
        target: writes its own prompts (Magpie, arXiv 2406.08464).
        n_prompts: how many, about: some of the self-written ones are no prompts.
        round_number: rounds of a seed are different.
        seed: of everything.
        n_slots: see `sample_jobs`.

    Yields:
        Source (self, template, package), kind of task, and the prompt.
    """
    rng = random.Random(f"{seed}/{round_number}")
    counts = {source: round(share * n_prompts) for source, share in _SHARES.items()}
    for kind, text in _self_written(target, counts["self"], rng, n_slots):
        yield "self", kind, text
    for _ in range(counts["template"]):
        yield "template", *filled_template(rng)
    n_before = round_number * counts["package"]
    for kind, text in islice(package_prompts(n_before + counts["package"], seed=seed), n_before, None):
        yield "package", kind, text


def _self_written(target: LanguageModel, n_prompts: int, rng: random.Random, n_slots: int) -> Iterator[tuple[str, str]]:
    """Kind and text of prompts that the target writes, shorter and longer ones apart to keep the batches even."""
    head = _open_user_turn(target)
    jobs, texts = [], {}
    for index in range(n_prompts):
        kind = KINDS[index % len(KINDS)]
        texts[str(index)] = (kind, opening(kind, rng))
        jobs.append(
            Job(
                name=str(index),
                prompt_ids=target.encode(head + texts[str(index)][1], add_special_tokens=False),
                max_new_tokens=_TOKENS[kind],
                temperature=_TEMPERATURE,
                seed=rng.getrandbits(60),
            )
        )
    jobs.sort(key=lambda job: job.max_new_tokens)
    for job, ids in sample_jobs(target, jobs, n_slots=n_slots):
        kind, begun = texts[job.name]
        text = _finished(kind, begun + target.decode(ids), ended=ids[-1] in target.stop_ids, rng=rng)
        if text is not None:
            yield kind, text


def _open_user_turn(target: LanguageModel) -> str:
    """The chat template's text up to where the user would begin to write."""
    mark = "MARK"
    text = target.decode(target.encode_chat([{"role": "user", "content": mark}]), skip_special=False)
    return text[: text.index(mark)]


def _finished(kind: str, text: str, *, ended: bool, rng: random.Random) -> str | None:
    """What becomes of a self-written prompt; None if it is no prompt."""
    text = text.strip()
    if kind == "code" and text.count('"""') >= 2:
        text = text[: text.index('"""', text.index('"""') + 3) + 3]  # the rest would be the answer
    elif kind in ("summary", "passage"):
        text = text[: max(text.rfind(mark) for mark in ".!?") + 1]
        if len(text) < 200:
            return None
        if kind == "passage":
            text = f"{text}\n{rng.choice(_QUESTIONS)}"
    elif not ended:
        return None
    return text if len(re.findall(r"\w+", text)) >= 3 else None
