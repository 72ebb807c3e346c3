"""Draft heads: hidden states in, scores over a draft vocabulary out."""

from outlex.heads.base import DraftHead, FollowingHead
from outlex.heads.in_context import InContextHead
from outlex.heads.linear import FullHead, LinearHead, TrimmedHead, trim_head

__all__ = ["DraftHead", "FollowingHead", "FullHead", "InContextHead", "LinearHead", "TrimmedHead", "trim_head"]
