"""`load_model`: one loader for catalogue names, directories, GGUF files and Hub ids."""

from __future__ import annotations

import os
from typing import Any

import torch

from outlex.errors import ArtifactError, ModelError
from outlex.models.checkpoint import causal_config, check_files, damaged
from outlex.models.language_model import LanguageModel
from outlex.models.locate import Located, locate
from outlex.models.options import resolve_device, resolve_dtype, use_threads
from outlex.models.progress import Reporter
from outlex.models.tokenizer import quiet_transformers, read_tokenizer

__all__ = ["LanguageModel", "load_model"]


def load_model(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "auto",
    threads: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> LanguageModel:
    """Load a causal language model and its tokenizer.

    Program code that comes with a model is never run (`trust_remote_code` is off), and pickled weights are
    not read.

    Args:
        source: a catalogue name (`qwen15`, `qwen05`, `smol135`, `gemma270`), a local directory, a `.gguf`
            file, or a Hub id OWNER/NAME; tried in this order. A path object is always a path.
        dtype: `auto` is bfloat16 where the hardware multiplies it, else float32 (CPU) or float16 (CUDA). Any
            other value is used as it is, whatever the checkpoint was saved in.
        device: `auto` is the first CUDA device if there is one, else the CPU.
        threads: torch's thread count, which is set for the whole process; None leaves it.
        cache_dir: where downloads and conversions are kept; None is `$OUTLEX_CACHE` or `~/.cache/outlex`.
        progress: bars (on a terminal) or lines on stderr.

    Returns:
        The model in eval mode, without gradients, attention by `sdpa` where the model has it.

    Raises:
        InputError: unknown dtype or device, or a wrong thread count.
        ModelError: not found, not a causal model, or not loadable without code of its own.
        DownloadError: it has to be fetched and cannot be.
        ArtifactError: its files are incomplete, truncated or corrupted.
    """
    torch_device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, device=torch_device)
    use_threads(threads)
    report = Reporter(enabled=progress)
    located = locate(source, dtype=torch_dtype, cache_dir=cache_dir, report=report)
    try:
        with quiet_transformers():
            check_files(located.directory)
            config = causal_config(located.directory, name=located.name)
            tokenizer = read_tokenizer(located.directory)
            model = _load_weights(located, config=config, dtype=torch_dtype, device=torch_device)
    except ArtifactError as error:
        if not located.is_cached:
            raise
        raise ArtifactError(
            error.what,
            got=error.got,
            expected=error.expected,
            next_step=f"delete {located.directory}, then run again: outlex makes it anew",
        ) from error
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=located.name,
        source=located.source,
        dtype=torch_dtype,
        device=torch_device,
    )


def _load_weights(located: Located, *, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    # a quantised checkpoint must be placed while it loads; for others that would need one more package
    placement: dict[str, Any] = {}
    if getattr(config, "quantization_config", None) is not None:
        placement["device_map"] = {"": device}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            located.directory,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **placement,
        )
    except SafetensorError as error:
        single = located.directory / "model.safetensors"
        raise damaged(single if single.is_file() else located.directory, error) from error
    except (ImportError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"transformers cannot load {located.name}",
            got=f"{type(error).__name__}: {error}",
            expected="a causal model whose config and weights belong together",
            next_step="if a package is named above, install it; else check where the checkpoint comes from",
        ) from error
    if info["missing_keys"]:
        # transformers would go on with random numbers in their place
        missing = sorted(info["missing_keys"])
        raise ArtifactError(
            f"{len(missing)} weights of {located.name} are missing",
            got=f"no {', '.join(missing[:3])} in {located.directory}",
            expected="every weight that config.json describes",
            next_step="download the checkpoint again; embedding models have no LM head and cannot be used",
        )
    if not placement:
        model = model.to(device)
    return model.eval().requires_grad_(False)
