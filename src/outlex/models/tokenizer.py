"""Tokenizers, with or without the weights of their models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.errors import ModelError
from outlex.models.checkpoint import damaged, read_json
from outlex.models.locate import locate
from outlex.models.options import resolve_device, resolve_dtype
from outlex.models.progress import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_tokenizer", "quiet_transformers", "read_tokenizer"]


def load_tokenizer(
    source: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, without loading the model.

    Args:
        source: as `load_model` takes it; a directory needs only the tokenizer's files.
        cache_dir, progress: as in `load_model`.

    Raises:
        ModelError: not found, or not one that the tokenizers library can run.
        DownloadError: it has to be fetched and cannot be.
        ArtifactError: its files are damaged.
    """
    # the type of weights in which a conversion from GGUF is most likely here already
    dtype = resolve_dtype("auto", device=resolve_device("auto"))
    located = locate(source, dtype=dtype, cache_dir=cache_dir, report=Reporter(enabled=progress))
    with quiet_transformers():
        return read_tokenizer(located.directory)


def read_tokenizer(directory: Path) -> Any:
    """The tokenizer in a transformers directory.

    Raises:
        ModelError: there is none that the tokenizers library can run.
        ArtifactError: its files are damaged.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # AutoTokenizer takes tokenizer.json apart and builds the family's own class from it, which takes twice as
    # long; where tokenizer.json says everything (all conversions from GGUF), it is read as it is.
    settings = directory / "tokenizer_config.json"
    is_plain = settings.is_file() and read_json(settings).get("tokenizer_class") == "TokenizersBackend"
    loader = PreTrainedTokenizerFast if is_plain else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the Rust side raises plain Exception
        if (directory / "tokenizer.json").is_file():
            raise damaged(directory / "tokenizer.json", error) from error
        raise ModelError(
            "transformers cannot build the tokenizer",
            got=f"{directory}: {error}",
            expected="a tokenizer.json file",
            next_step="if a package is named above, install it; else save the tokenizer with save_pretrained",
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            "outlex needs a tokenizer that the tokenizers library can run",
            got=type(tokenizer).__name__,
            expected="a tokenizer.json file",
            next_step="convert it once with transformers: save_pretrained writes tokenizer.json if it can",
        )
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and warnings off stderr: what matters in them is raised as an error here."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
