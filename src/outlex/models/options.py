"""Turns the options dtype, device and threads of `load_model` into what torch takes."""

from __future__ import annotations

import torch

from outlex.errors import InputError

__all__ = ["resolve_device", "resolve_dtype", "use_threads"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def resolve_device(device: torch.device | str) -> torch.device:
    """`auto` is the first CUDA device if torch sees one, else the CPU.

    Raises:
        InputError: torch does not know the device, or the machine does not have it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            "unknown device",
            got=repr(device),
            expected="auto, cpu, cuda or cuda:N",
            next_step="leave the option out to let outlex choose",
        ) from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(
            "this machine has no such CUDA device, or this torch was built without CUDA",
            got=str(resolved),
            expected=f"one of {torch.cuda.device_count()} CUDA devices",
            next_step="use device='cpu', or install a torch build with CUDA",
        )
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(
            "outlex does not run on this kind of device",
            got=str(resolved),
            expected="cpu or cuda",
            next_step="use device='cpu'",
        )
    return resolved


def resolve_dtype(dtype: torch.dtype | str, *, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies bfloat16; else float32 on a CPU and float16 on CUDA.

    Raises:
        InputError: not a floating-point type that outlex computes in.
    """
    if dtype == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32
    resolved = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in _DTYPES.values():
        raise InputError(
            "unknown dtype",
            got=repr(dtype),
            expected="auto, " + ", ".join(_DTYPES),
            next_step="leave the option out to let outlex choose",
        )
    return resolved


def _cpu_multiplies_bf16() -> bool:
    # Without such instructions bfloat16 is converted to float32 for each product: slower than float32 itself.
    query = getattr(torch.cpu, "get_capabilities", None)
    if query is not None:
        capabilities = query()
        return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    # torch before 2.10
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def use_threads(threads: int | None) -> None:
    """Set torch's thread count, for the whole process; None leaves it as it is.

    Raises:
        InputError: not a positive integer.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(
            "the number of threads must be a positive integer",
            got=repr(threads),
            expected="1 up to the number of cores",
            next_step="leave it out to keep torch's own setting",
        )
    torch.set_num_threads(threads)
