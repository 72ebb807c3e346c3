"""Trimmed and preview drafters in vLLM: a plugin of the entry point `vllm.general_plugins`.

vLLM calls `register` once in each of its processes. What it serves are the directories that
`outlex export --to vllm-plugin` writes. `draft_head.py` holds everything that needs no vLLM, `models.py` the classes.
"""

from outlex.vllm_plugin.registration import register

__all__ = ["register"]
