"""Small draft vocabularies for speculative decoding that keep acceptance and never change the target's distribution.

Importing the package loads nothing heavy: each public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outlex.decode import Generation, SpeculativeDecoder, Step
    from outlex.drafters import TrimmedDrafter, load_draft_head, trim
    from outlex.errors import OutlexError
    from outlex.models import LanguageModel, load_model
    from outlex.proposals import Proposal, Tli, Vanilla
    from outlex.sampling import SamplingParams
    from outlex.vocab.must_keep import must_keep
    from outlex.vocab.ranking import read_ranking
    from outlex.vocab.sub_vocab import SubVocab

__version__ = "0.1.0"

__all__ = [
    "Generation",
    "LanguageModel",
    "OutlexError",
    "Proposal",
    "SamplingParams",
    "SpeculativeDecoder",
    "Step",
    "SubVocab",
    "Tli",
    "TrimmedDrafter",
    "Vanilla",
    "__version__",
    "load_draft_head",
    "load_model",
    "must_keep",
    "read_ranking",
    "trim",
]

_ROOM_OF = {
    "Generation": "outlex.decode",
    "LanguageModel": "outlex.models",
    "OutlexError": "outlex.errors",
    "Proposal": "outlex.proposals",
    "SamplingParams": "outlex.sampling",
    "SpeculativeDecoder": "outlex.decode",
    "Step": "outlex.decode",
    "SubVocab": "outlex.vocab.sub_vocab",
    "Tli": "outlex.proposals",
    "TrimmedDrafter": "outlex.drafters",
    "Vanilla": "outlex.proposals",
    "load_draft_head": "outlex.drafters",
    "load_model": "outlex.models",
    "must_keep": "outlex.vocab.must_keep",
    "read_ranking": "outlex.vocab.ranking",
    "trim": "outlex.drafters",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'outlex' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ROOM_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
