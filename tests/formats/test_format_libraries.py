"""What outlex writes, loaded by the libraries it is meant for, and what they write, read by outlex."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from map_files import ASCENDING, RANKED, WIDTH, eagle3, speculators
from safetensors import safe_open

from outlex.formats import WRITERS, MapFile, WriteRequest, read_map
from outlex.formats.retrim import retrim

needs_speculators = pytest.mark.skipif(
    importlib.util.find_spec("speculators") is None, reason="the speculators library is not installed"
)
needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the gguf package is not installed")


def a_map() -> MapFile:
    return MapFile(
        format="token-ids",
        path=Path("memory.json"),
        ids=torch.tensor(RANKED),
        n_target=WIDTH,
        spelling="absolute",
        settled_by="a test",
        layout="a test",
    )


def written(name: str, output: Path) -> Path:
    WRITERS[name].write(a_map(), WriteRequest(output=output))
    return output


def test_sglang_loads_a_plain_list(tmp_path: Path) -> None:
    # what SGLang's loader does with the path after --speculative-token-map
    hot = torch.load(written("sglang-token-map", tmp_path / "map.pt"), weights_only=True)
    assert type(hot) is list
    assert torch.tensor(hot, dtype=torch.int64).tolist() == RANKED


def test_safetensors_loads_offsets_and_mask(tmp_path: Path) -> None:
    with safe_open(written("eagle3-d2t", tmp_path / "map.safetensors"), framework="pt") as file:
        d2t, t2d = file.get_tensor("d2t"), file.get_tensor("t2d")
    assert (d2t.dtype, t2d.dtype, t2d.shape) == (torch.int64, torch.bool, (WIDTH,))
    # the two lines by which vLLM and SGLang turn it into ids
    assert (torch.arange(len(d2t)) + d2t).tolist() == RANKED
    assert t2d.nonzero().flatten().tolist() == ASCENDING


def test_medusa_map_indexes_logits(tmp_path: Path) -> None:
    with safe_open(written("medusa-token-map", tmp_path / "map.safetensors"), framework="pt") as file:
        token_map = file.get_tensor("token_map")
    logits = torch.full((WIDTH,), -torch.inf)
    logits[token_map] = torch.arange(len(RANKED), dtype=torch.float32)
    assert logits.argmax().item() == RANKED[-1]


@needs_gguf
def test_the_gguf_package_reads_absolute_ids(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader

    reader = GGUFReader(written("gguf", tmp_path / "map.gguf"))
    (tensor,) = [tensor for tensor in reader.tensors if tensor.name == "d2t"]
    assert tensor.tensor_type == GGMLQuantizationType.I64
    assert tensor.data.tolist() == RANKED
    assert reader.fields["eagle3.vocab_size"].contents() == WIDTH


def test_transformers_reads_the_config_of_a_drafter_cut_again(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    retrim(
        eagle3(tmp_path / "d"),
        order=torch.tensor(RANKED),
        size=4,
        must_keep_ids=(),
        output=tmp_path / "e",
    )
    config = LlamaConfig.from_pretrained(tmp_path / "e")
    assert (config.draft_vocab_size, config.vocab_size) == (4, WIDTH)


@pytest.fixture(scope="module")
def seen_by_speculators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the library makes of our files, and files of its own. Its import sets global state: a process for it."""
    folder = tmp_path_factory.mktemp("speculators")
    written("speculators", folder / "maps")
    retrim(speculators(folder / "d"), order=torch.tensor(RANKED), size=4, must_keep_ids=(), output=folder / "smaller")
    (folder / "theirs").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SPECULATORS, str(folder), str(WIDTH), str(len(RANKED))],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"speculators cannot be imported here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "theirs": folder / "theirs"}


SPECULATORS = """
import json, sys, types, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from speculators.model import DraftVocabMixin
from speculators.models.eagle3.config import Eagle3SpeculatorConfig
from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution

folder, width, n_draft = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

class Drafter(DraftVocabMixin, torch.nn.Module):
    pass

layer = types.SimpleNamespace(vocab_size=width, hidden_size=8, pad_token_id=None)
drafter = Drafter()
drafter._init_vocab(types.SimpleNamespace(transformer_layer_config=layer, draft_vocab_size=n_draft))
t2d, d2t = (torch.from_numpy(np.load(f"{folder}/maps/{name}.npy")) for name in ("t2d", "d2t"))
drafter.load_vocab_mappings(t2d, d2t)
config = Eagle3SpeculatorConfig.from_pretrained(f"{folder}/smaller")
d2t, t2d = build_vocab_mappings_from_distribution({17: 9, 3: 8, 39: 7, 0: 2, 5: 1}, 4, 40)
np.save(f"{folder}/theirs/d2t.npy", d2t.numpy())
np.save(f"{folder}/theirs/t2d.npy", t2d.numpy())
print(json.dumps({
    "ids": (torch.arange(n_draft) + drafter.d2t).tolist(),
    "marked": drafter.t2d.nonzero().flatten().tolist(),
    "sizes": [config.draft_vocab_size, config.target_vocab_size],
}))
"""


@needs_speculators
def test_speculators_takes_the_arrays(seen_by_speculators: dict[str, Any]) -> None:
    assert seen_by_speculators["ids"] == seen_by_speculators["marked"] == ASCENDING


@needs_speculators
def test_speculators_own_arrays_are_read(seen_by_speculators: dict[str, Any]) -> None:
    found = read_map(seen_by_speculators["theirs"])
    assert (found.ids.tolist(), found.n_target, found.spelling) == ([0, 3, 17, 39], 40, "offsets")


@needs_speculators
def test_speculators_reads_the_config_of_a_drafter_cut_again(seen_by_speculators: dict[str, Any]) -> None:
    assert seen_by_speculators["sizes"] == [4, WIDTH]
