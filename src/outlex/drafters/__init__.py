"""Drafters: verified tokens in, hidden states for the draft head out."""

from outlex.drafters.base import Drafter
from outlex.drafters.independent import IndependentDrafter
from outlex.drafters.trimmed import TrimmedDrafter, trim

__all__ = ["Drafter", "IndependentDrafter", "TrimmedDrafter", "trim"]
