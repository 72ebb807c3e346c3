"""Token maps and tiny drafters in the layouts of other programs, written without outlex."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN = 8
WIDTH = 40
# Neither ascending nor without gaps, and a map in one reading only.
RANKED = [17, 3, 4, 39, 0, 11, 12, 5]
ASCENDING = sorted(RANKED)


def offsets(ids: Sequence[int]) -> Tensor:
    """What EAGLE-3 stores: id less row."""
    return torch.tensor(ids) - torch.arange(len(ids))


def mask(ids: Sequence[int], width: int = WIDTH) -> Tensor:
    """Which target ids have a row."""
    found = torch.zeros(width, dtype=torch.bool)
    found[list(ids)] = True
    return found


def head(n_rows: int) -> Tensor:
    """Rows that tell which they are."""
    return torch.arange(n_rows, dtype=torch.float32)[:, None].expand(n_rows, HIDDEN).clone()


def drafter_weights(n_rows: int) -> dict[str, Tensor]:
    """An EAGLE-3 drafter without its map."""
    return {
        "fc.weight": torch.full((HIDDEN, 3 * HIDDEN), 0.5),
        "midlayer.self_attn.q_proj.weight": torch.full((HIDDEN, 2 * HIDDEN), 0.25),
        "lm_head.weight": head(n_rows),
        "norm.weight": torch.ones(HIDDEN),
    }


def write_json(path: Path, value: object) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return path


def eagle3_config(n_rows: int, width: int = WIDTH, **more: Any) -> dict[str, Any]:
    """As SpecForge and ModelOpt write it."""
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": width,
        "draft_vocab_size": n_rows,
        **more,
    }


def speculators_config(n_rows: int, width: int = WIDTH) -> dict[str, Any]:
    """As speculators 0.9 writes it."""
    return {
        "architectures": ["Eagle3Speculator"],
        "draft_vocab_size": n_rows,
        "speculators_model_type": "eagle3",
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"architectures": ["LlamaForCausalLM"], "name_or_path": None},
        },
        "transformer_layer_config": {
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "num_attention_heads": 2,
            "vocab_size": width,
        },
    }


def eagle3(
    directory: Path,
    ids: Sequence[int] = RANKED,
    *,
    width: int = WIDTH,
    has_mask: bool = True,
    values: Tensor | None = None,
    config: dict[str, Any] | None = None,
    layout: str = "single",
) -> Path:
    """A checkpoint of an EAGLE-3 drafter.

    Args:
        directory: made.
        ids: target id of each row.
        width: of the target's head.
        has_mask: whether there is a t2d.
        values: what stands in d2t, if not the offsets of `ids`.
        config: config.json, if not the usual one.
        layout: single, sharded (the map apart from the head) or pickled.
    """
    directory.mkdir(parents=True)
    weights = drafter_weights(len(ids))
    maps = {"d2t": offsets(ids) if values is None else values}
    if has_mask:
        maps["t2d"] = mask(ids, width)
    write_json(directory / "config.json", eagle3_config(len(ids), width) if config is None else config)
    if layout == "single":
        save_file({**weights, **maps}, directory / "model.safetensors", metadata={"format": "pt"})
    elif layout == "pickled":
        torch.save({**weights, **maps}, directory / "pytorch_model.bin")
    else:
        names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        for name, part in zip(names, (weights, maps), strict=True):
            save_file(part, directory / name, metadata={"format": "pt"})
        everything = {**dict.fromkeys(weights, names[0]), **dict.fromkeys(maps, names[1])}
        n_bytes = sum(t.numel() * t.element_size() for t in (*weights.values(), *maps.values()))
        index = {"metadata": {"total_size": n_bytes}, "weight_map": everything}
        write_json(directory / "model.safetensors.index.json", index)
    return directory


def speculators(directory: Path, ids: Sequence[int] = tuple(ASCENDING)) -> Path:
    """A checkpoint of the speculators library."""
    return eagle3(directory, ids, config=speculators_config(len(ids)))


def medusa(directory: Path, ids: Sequence[int] = RANKED, *, truncated: int | None = len(RANKED)) -> Path:
    """Medusa heads as vLLM loads them."""
    directory.mkdir(parents=True)
    config = {"architectures": ["MedusaModel"], "model_type": "medusa", "vocab_size": WIDTH, "num_heads": 1}
    if truncated is not None:
        config["truncated_vocab_size"] = truncated
    write_json(directory / "config.json", config)
    weights = {"token_map": torch.tensor(ids), "lm_heads.0.weight": head(len(ids))}
    save_file(weights, directory / "model.safetensors")
    return directory


def gguf_drafter(
    path: Path,
    ids: Sequence[int] = RANKED,
    *,
    values: Sequence[int] | None = None,
    dtype: Any = np.int64,
    n_rows: int | None = None,
) -> Path:
    """An EAGLE-3 drafter for llama.cpp, written with the gguf package."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "eagle3")
    writer.add_vocab_size(WIDTH)
    writer.add_tensor("output.weight", head(len(ids) if n_rows is None else n_rows).numpy())
    writer.add_tensor("d2t", np.array(ids if values is None else values, dtype=dtype))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def torch_file(path: Path, value: object) -> Path:
    """`torch.save`."""
    torch.save(value, path)
    return path


def npy_pair(directory: Path, ids: Sequence[int] = tuple(ASCENDING)) -> Path:
    """What speculators' trainer takes."""
    directory.mkdir(parents=True)
    np.save(directory / "d2t.npy", offsets(ids).numpy())
    np.save(directory / "t2d.npy", mask(ids).numpy())
    return directory


# One good file of each format, its name and the ids that are in it.
GOOD: dict[str, tuple[str, list[int], Callable[[Path], Path]]] = {
    "sglang-token-map": ("map.pt", RANKED, lambda path: torch_file(path, list(RANKED))),
    "torch-tensor": ("d2t.pt", RANKED, lambda path: torch_file(path, offsets(RANKED))),
    "automodel-token-map": (
        "map.pt",
        RANKED,
        lambda path: torch_file(path, {"selected_token_ids": torch.tensor(RANKED), "target_vocab_size": WIDTH}),
    ),
    "mapping-dict": (
        "mapping.pt",
        ASCENDING,
        lambda path: torch_file(path, {"d2t": offsets(ASCENDING), "t2d": mask(ASCENDING)}),
    ),
    "eagle3-d2t": ("drafter", RANKED, eagle3),
    "speculators": ("speculator", ASCENDING, speculators),
    "medusa-token-map": ("heads", RANKED, medusa),
    "gguf": ("drafter.gguf", RANKED, gguf_drafter),
    "token-ids": ("ids.json", RANKED, lambda path: write_json(path, RANKED)),
}


class _Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (open, (str(self.mark), "w"))


def bombs(folder: Path, mark: Path) -> dict[str, Path]:
    """Files that would make `mark` if anything in them were executed, one for each way in."""
    folder.mkdir(parents=True, exist_ok=True)
    bomb = _Bomb(mark)
    found = {"torch.save": torch_file(folder / "a.pt", bomb), "in a list": torch_file(folder / "b.pt", [1, 2, bomb])}
    found["in a dict"] = torch_file(folder / "c.pt", {"d2t": torch.arange(3), "t2d": bomb})
    bare = folder / "d.pt"
    bare.write_bytes(pickle.dumps(bomb))
    legacy = folder / "e.pt"
    torch.save(bomb, legacy, _use_new_zipfile_serialization=False)
    compressed = folder / "f.pt"
    with zipfile.ZipFile(found["torch.save"]) as old, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    weights = folder / "weights"
    weights.mkdir()
    write_json(weights / "config.json", eagle3_config(3))
    torch_file(weights / "pytorch_model.bin", {"d2t": torch.arange(3), "lm_head.weight": bomb})
    arrays = npy_pair(folder / "arrays")
    np.save(arrays / "d2t.npy", np.array([bomb], dtype=object), allow_pickle=True)
    return {**found, "pickle": bare, "legacy": legacy, "compressed": compressed, "weights": weights, "numpy": arrays}
