"""The demo: a real pair decodes losslessly, with and without a trimmed head, and the numbers are shown."""

from outlex.demo.config import PAIRS, DemoConfig, DemoPair, DemoResult
from outlex.demo.run import run_demo

__all__ = ["PAIRS", "DemoConfig", "DemoPair", "DemoResult", "run_demo"]
