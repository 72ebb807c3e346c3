"""outlex inside `model.generate`: trimmed drafters and their proposals through `custom_generate`."""

from outlex.transformers_hook.hook import Speculative, speculative

__all__ = ["Speculative", "speculative"]
