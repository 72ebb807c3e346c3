"""Drafters: verified tokens in, hidden states for the draft head out."""

from outlex.drafters.artifacts import DraftHeadArtifact, load_draft_head, proposal_of
from outlex.drafters.base import Drafter
from outlex.drafters.eagle import EagleDrafter
from outlex.drafters.fitted import FittedHead, Shortlists
from outlex.drafters.independent import IndependentDrafter
from outlex.drafters.retokenizing import RetokenizingDrafter
from outlex.drafters.stored_proposal import StoredProposal
from outlex.drafters.trimmed import TrimmedDrafter, trim

__all__ = [
    "DraftHeadArtifact",
    "Drafter",
    "EagleDrafter",
    "FittedHead",
    "IndependentDrafter",
    "RetokenizingDrafter",
    "Shortlists",
    "StoredProposal",
    "TrimmedDrafter",
    "load_draft_head",
    "proposal_of",
    "trim",
]
