"""Proposals: the law q̃ that draft tokens are drawn from. One file each, one protocol (`base.py`)."""

from outlex.proposals.base import DraftScores, HotLaw, Proposal, ProposalLaw
from outlex.proposals.tli import Tli
from outlex.proposals.vanilla import Vanilla

__all__ = ["DraftScores", "HotLaw", "Proposal", "ProposalLaw", "Tli", "Vanilla"]
