"""The table of demo models: its entries are sound, and names that are nearly right are recognised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from outlex.errors import InputError
from outlex.models.catalogue import CATALOGUE, near_misses


def test_the_four_demo_models_are_there_under_their_own_names() -> None:
    assert list(CATALOGUE) == ["qwen15", "qwen05", "smol135", "gemma270"]
    assert all(entry.name == name for name, entry in CATALOGUE.items())
    assert CATALOGUE["qwen15"].n_vocab == CATALOGUE["qwen05"].n_vocab == 151_936


def test_no_package_and_no_file_is_named_twice() -> None:
    parts = [part for entry in CATALOGUE.values() for part in entry.parts]
    assert len(parts) == len(set(parts)) == 22 + 6 + 1 + 4
    assert len({entry.gguf_sha256 for entry in CATALOGUE.values()}) == len(CATALOGUE)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"parts": ("some-package",)}, "pin the package"),
        ({"parts": ("some-package>=1",)}, "pin the package"),
        ({"parts": ()}, "pin the package"),
        ({"gguf_sha256": "abc"}, "sha256sum"),
        ({"gguf_sha256": "Z" * 64}, "sha256sum"),
        ({"gguf_bytes": 0}, "read the sizes"),
        ({"member_marker": ""}, "read the sizes"),
    ],
)
def test_an_entry_that_cannot_be_right_is_refused(change: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        replace(CATALOGUE["smol135"], **change)


def test_near_misses() -> None:
    assert set(near_misses("qwen5")) == {"qwen05", "qwen15"}
    assert near_misses("SMOL135") == ["smol135"]
    assert near_misses("bert-base") == []
