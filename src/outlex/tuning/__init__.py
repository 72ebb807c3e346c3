"""Which proposal a draft head should draw with: fitted, calibrated and compared on traces."""

from outlex.tuning.recipes import FAMILIES
from outlex.tuning.result import Comparison, Trial, Tuned
from outlex.tuning.run import compare, tune
from outlex.tuning.settings import TuneSettings

__all__ = ["FAMILIES", "Comparison", "Trial", "TuneSettings", "Tuned", "compare", "tune"]
