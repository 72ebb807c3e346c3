"""Loading of models, and the runners that drive them."""

from outlex.models.language_model import LanguageModel
from outlex.models.load import load_model

__all__ = ["LanguageModel", "load_model"]
