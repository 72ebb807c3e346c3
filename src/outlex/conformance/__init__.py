"""Black-box conformance: whether an engine's speculative decoding keeps the target's law."""

from outlex.conformance.check import CheckConfig, verify_engine
from outlex.conformance.engines import CountsDrafts, Engine
from outlex.conformance.law import Tolerance
from outlex.conformance.reference import ModelReference, Reference
from outlex.conformance.result import Verification
from outlex.conformance.sampled import SequentialTest

__all__ = [
    "CheckConfig",
    "CountsDrafts",
    "Engine",
    "ModelReference",
    "Reference",
    "SequentialTest",
    "Tolerance",
    "Verification",
    "verify_engine",
]
