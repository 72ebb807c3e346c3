"""Which ids a draft vocabulary never drops, whatever a ranking says of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from outlex.errors import InputError
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of, piece_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MustKeep", "must_keep"]

_WHITESPACE = b" \t\n\r\v\f"
_DIGITS = re.compile(rb"[0-9]{1,3}")
# Names of places that a tokenizer keeps free: <unused7>, [unused7], <|reserved_special_token_7|>, ...
_FILLER = re.compile(
    r"[<\[][|\uff5c]?(?:unused|reserved|dummy|extra|special|place.?holder|pad)[a-z_\u2581]*\d+[|\uff5c]?[>\]]",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class MustKeep:
    """Ids to keep, by reason; an id may have several.

    Attributes:
        reasons: ascending ids of ``"stop"``, ``"special"``, ``"byte"``, ``"digit"``, ``"whitespace"``
            and ``"extra"``.
        n_filler: special ids left out because their name says that they are a free place.
    """

    reasons: Mapping[str, tuple[int, ...]] = field(repr=False)
    n_filler: int = 0

    def __post_init__(self) -> None:
        for reason, ids in self.reasons.items():
            if list(ids) != sorted(set(ids)) or (ids and ids[0] < 0):
                raise InputError(
                    f"The must-keep ids of reason {reason!r} are not ascending ids",
                    got=f"{ids[:8]}",
                    next_step="pass each id once, in ascending order, none below 0",
                )

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Every id to keep, ascending."""
        return tuple(sorted({index for ids in self.reasons.values() for index in ids}))

    def __len__(self) -> int:
        return len(self.ids)


def must_keep(
    tokenizer: TokenizerFacts | PreTrainedTokenizerBase,
    *,
    stop_ids: Iterable[int] = (),
    extra_ids: Iterable[int] = (),
) -> MustKeep:
    """The ids a draft vocabulary needs to end, to switch roles, and to spell anything at all.

    - ``stop``: ``stop_ids`` and the tokenizer's own end of sequence.
    - ``special``: every special or added token (``<|im_start|>``, ``<tool_call>``). Free places such
      as ``<unused7>`` are left out: no model was trained to say them, and one tokenizer has 6,242.
    - ``byte``: pieces of one byte, byte-fallback pieces among them.
    - ``digit``: one to three ASCII digits. ``whitespace``: runs of ASCII whitespace.
    - ``extra``: ``extra_ids``.

    Args:
        tokenizer: a transformers tokenizer, or its facts.
        stop_ids: every id that ends a generation, from the generation config.
        extra_ids: more ids that the caller wants, for example of a tool's syntax.

    Raises:
        InputError: a stop or extra id that is not an entry of the tokenizer.
    """
    facts = tokenizer if isinstance(tokenizer, TokenizerFacts) else facts_of(tokenizer)
    stop = set(_checked(stop_ids, facts, name="stop_ids"))
    if facts.eos_id is not None:
        stop.add(facts.eos_id)
    extra = _checked(extra_ids, facts, name="extra_ids")
    named = set(facts.special_ids) | set(facts.added_ids)
    filler = {index for index in named if _FILLER.fullmatch(facts.pieces[index] or "")}
    spelled = [(index, data) for index, data in enumerate(piece_bytes(facts)) if data]
    reasons = {
        "stop": stop,
        "special": named - filler,
        "byte": {index for index, data in spelled if len(data) == 1},
        "digit": {index for index, data in spelled if len(data) <= 3 and _DIGITS.fullmatch(data)},
        "whitespace": {index for index, data in spelled if not data.strip(_WHITESPACE)},
        "extra": set(extra),
    }
    kept = stop | set(extra)
    return MustKeep(
        reasons={reason: tuple(sorted(ids)) for reason, ids in reasons.items()},
        n_filler=len(filler - kept),
    )


def _checked(ids: Iterable[int], facts: TokenizerFacts, *, name: str) -> list[int]:
    checked = list(ids)
    for index in checked:
        if type(index) is not int or not 0 <= index < facts.n_entries:
            raise InputError(
                f"{name} names an id that the tokenizer does not have",
                got=repr(index),
                expected=f"whole numbers from 0 to {facts.n_entries - 1}",
                next_step=f"take the ids from this tokenizer, or leave {name} out",
            )
    return checked
