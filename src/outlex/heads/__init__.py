"""Draft heads: hidden states in, scores over a draft vocabulary out."""

from outlex.heads.base import DraftHead
from outlex.heads.linear import FullHead, LinearHead, TrimmedHead, trim_head

__all__ = ["DraftHead", "FullHead", "LinearHead", "TrimmedHead", "trim_head"]
