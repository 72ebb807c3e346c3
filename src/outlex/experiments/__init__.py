"""Experiments on traces: where out-of-vocabulary sampling wins, where it loses, and why. One file each."""

from outlex.experiments.catalogue import EXPERIMENTS, run_experiment
from outlex.experiments.result import ExperimentResult
from outlex.experiments.setup import Setup

__all__ = ["EXPERIMENTS", "ExperimentResult", "Setup", "run_experiment"]
