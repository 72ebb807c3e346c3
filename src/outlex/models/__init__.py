"""Loading of models, and the runners that drive them."""

from outlex.models.language_model import LanguageModel
from outlex.models.load import load_model
from outlex.models.locate import check_source

__all__ = ["LanguageModel", "check_source", "load_model"]
