"""What `outlex export --to` offers: drafters as other programs load them, weights and all."""

from __future__ import annotations

from outlex.formats.exporting import Export
from outlex.formats.hf import export_hf
from outlex.formats.vllm_drafter import export_vllm_drafter
from outlex.formats.vllm_tli import export_vllm_tli

__all__ = ["EXPORTS"]

# By the name that `outlex export --to` takes.
EXPORTS: dict[str, Export] = {
    "vllm-plugin": export_vllm_drafter,
    "vllm-tli": export_vllm_tli,
    "hf": export_hf,
}
