"""The plugin against a real vLLM, where one is installed (benchmarks/vllm/setup.sh makes such an environment)."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; benchmarks/vllm/setup.sh makes an environment with it")


def test_the_architectures_are_known() -> None:
    from vllm import ModelRegistry

    from outlex.formats.vllm_drafter import ARCHITECTURES
    from outlex.vllm_plugin import register

    register()
    register()
    assert set(ARCHITECTURES.values()) <= set(ModelRegistry.get_supported_archs())
    assert set(ARCHITECTURES) <= set(ModelRegistry.get_supported_archs())


def test_the_repair_is_needed_and_in_place() -> None:
    import vllm
    from vllm.platforms import current_platform

    from outlex.vllm_plugin.cpu_expand import FAULTY_VERSIONS, expand_to_tokens, repair_cpu_expand

    if vllm.__version__ not in FAULTY_VERSIONS or not current_platform.is_cpu():
        pytest.skip(f"vLLM {vllm.__version__} on {current_platform.device_type} is not the release with the fault")
    repair_cpu_expand()
    from vllm.utils import cpu_triton_utils

    assert cpu_triton_utils._expand_kernel_impl is expand_to_tokens
    assert repair_cpu_expand() is False


def test_every_class_is_a_draft_model() -> None:
    from vllm.model_executor.models.interfaces_base import is_text_generation_model

    from outlex.formats.vllm_drafter import ARCHITECTURES
    from outlex.vllm_plugin import models

    for stock, name in ARCHITECTURES.items():
        cls = getattr(models, name)
        assert stock in [base.__name__ for base in cls.__mro__]
        assert is_text_generation_model(cls)


def test_its_own_tli_finds_the_tokens_of_the_map() -> None:
    from vllm.v1.spec_decode.vocab_mapping import VocabMapping

    class Tokenizer:
        unk_token_id, eos_token_id = None, 0

        def __init__(self, vocab: dict[str, int]) -> None:
            self.vocab = vocab

        def get_vocab(self) -> dict[str, int]:
            return self.vocab

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            raise ValueError("only ids are given")

    pieces = ["<end>", "a", "Ġa", "b", "Ġb", "ab"]
    ids = [5, 0, 2]
    mapping = VocabMapping(
        Tokenizer({piece: i for i, piece in enumerate(pieces)}),
        Tokenizer({pieces[old]: new for new, old in enumerate(ids)}),
        target_vocab_size=6,
        draft_vocab_size=3,
        device=torch.device("cpu"),
    )
    assert mapping.draft_to_target_ids.tolist() == ids
