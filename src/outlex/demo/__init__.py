"""The demo: a real pair decodes losslessly, with and without a trimmed vocabulary, and the numbers are shown."""

from outlex.demo.run import PAIRS, DemoConfig, DemoResult, run_demo

__all__ = ["PAIRS", "DemoConfig", "DemoResult", "run_demo"]
