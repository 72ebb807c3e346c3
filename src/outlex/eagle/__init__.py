"""EAGLE drafters: one layer on the target's hidden states. The network, its cache, and its training."""

from outlex.eagle.checkpoint import EagleCheckpoint
from outlex.eagle.config import EagleConfig, TargetIdentity
from outlex.eagle.module import EagleModule

__all__ = ["EagleCheckpoint", "EagleConfig", "EagleModule", "TargetIdentity"]
