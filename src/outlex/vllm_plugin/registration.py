"""What happens when vLLM loads its plugins: our architectures get names, and one fault of one release is repaired."""

from __future__ import annotations

__all__ = ["register"]

_MODULE = "outlex.vllm_plugin.models"


def register() -> None:
    """Entry point of `vllm.general_plugins`; may be called more than once a process."""
    from vllm import ModelRegistry

    from outlex.formats.vllm_drafter import ARCHITECTURES
    from outlex.vllm_plugin.cpu_expand import repair_cpu_expand

    for name in ARCHITECTURES.values():
        # as text: vLLM imports the class where it is needed, never in a process that must not touch CUDA
        ModelRegistry.register_model(name, f"{_MODULE}:{name}")
    repair_cpu_expand()
