"""α, τ and speed of trimmed drafters from traces, before anything is deployed."""

from outlex.forecast.measure import measure_step_times
from outlex.forecast.result import Cell, Forecast, Verdict
from outlex.forecast.run import forecast
from outlex.forecast.step_times import StepTimes

__all__ = ["Cell", "Forecast", "StepTimes", "Verdict", "forecast", "measure_step_times"]
