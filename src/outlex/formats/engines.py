"""What each engine does with a file, read in the engines' sources. Of all this only `vllm-plugin` was run.

The table in docs/engines.md is made of `RULES`, and so is what `outlex inspect` says of one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outlex.formats.base import MapFile

__all__ = ["RULES", "EngineRule", "Verdict", "verdicts"]


@dataclass(frozen=True, kw_only=True)
class EngineRule:
    """One engine and the formats it treats alike.

    Attributes:
        engine: name and the version whose source was read.
        formats: names of formats.
        reads: what it does with them.
        traps: what goes wrong without an error.
    """

    engine: str
    formats: tuple[str, ...]
    reads: str
    traps: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one engine would do with one file.

    Attributes:
        engine: name and version.
        loads: whether the engine takes this file.
        what: in a sentence.
        traps: what to mind, those of this very file first.
    """

    engine: str
    loads: bool
    what: str
    traps: tuple[str, ...]


_VLLM, _SGLANG = "vLLM 0.32", "SGLang 0.5.23"
_LLAMA_CPP, _TRANSFORMERS = "llama.cpp (2026)", "transformers 5.23"
_CHECKPOINTS = ("eagle3-d2t", "speculators")

RULES: tuple[EngineRule, ...] = (
    EngineRule(
        engine=_VLLM,
        formats=_CHECKPOINTS,
        reads="reads d2t as offsets, in any order of rows; never looks at t2d",
        traps=(
            "without d2t, row i is taken for token i, silently",
            "its logits are as wide as the drafter's vocab_size, which has to be the target's",
            "draft_sample_method is greedy by default; sampled verification needs probabilistic",
        ),
    ),
    EngineRule(
        engine=_VLLM,
        formats=("medusa-token-map",),
        reads="reads token_map as ids if truncated_vocab_size is below vocab_size, and cuts the heads' rows by it",
        traps=(
            "a vocab_size other than the target's makes it drop the truncation",
            "proposes the most probable token only",
        ),
    ),
    EngineRule(
        engine=_VLLM,
        formats=("vllm-plugin",),
        reads="drafts with the kept rows, if outlex is installed where it runs: the plugin registers the architecture",
        traps=(
            "without the plugin the architecture is unknown, and vLLM refuses the directory",
            "draft_sample_method is greedy by default, which makes a fitted proposal void",
            "0.32.0 on CPUs samples garbage without the plugin's repair, whatever the drafter",
        ),
    ),
    EngineRule(
        engine=_SGLANG,
        formats=("sglang-token-map",),
        reads="--speculative-token-map: for EAGLE and EAGLE-2 the rows of the target's head are cut by it",
        traps=(
            "EAGLE-3 ignores the file: its map is the d2t of the checkpoint",
            "STANDALONE reads it, leaves the head whole and still maps through it: wrong ids",
            "rejection sampling refuses reduced vocabularies",
        ),
    ),
    EngineRule(
        engine=_SGLANG,
        formats=_CHECKPOINTS,
        reads="reads d2t as offsets, in any order of rows; never looks at t2d",
        traps=("without d2t, row i is taken for token i, silently", "rejection sampling refuses reduced vocabularies"),
    ),
    EngineRule(
        engine=_LLAMA_CPP,
        formats=("gguf",),
        reads="reads d2t of an EAGLE-3 or DFlash drafter as int64 ids",
        traps=("offsets in a GGUF file are taken for ids",),
    ),
    EngineRule(
        engine=_LLAMA_CPP,
        formats=_CHECKPOINTS,
        reads="its converter (with --target-model-dir) turns offsets into ids, and refuses repeated or outlying ones",
        traps=("a d2t that already holds ids gets the rows added once more",),
    ),
    EngineRule(
        engine=_TRANSFORMERS,
        formats=(),
        reads="reads no map from a file; for an assistant with another tokenizer it computes the shared tokens itself",
        traps=(),
    ),
)
_ENGINES = tuple(dict.fromkeys(rule.engine for rule in RULES))


def verdicts(map_file: MapFile, *, missing: Sequence[int] = ()) -> list[Verdict]:
    """What every engine would do with a map.

    Args:
        map_file: the map.
        missing: must-keep ids without a row, where the tokenizer is known.
    """
    own = list(map_file.traps)
    if missing:
        own.append(f"{len(missing):,} must-keep tokens can never be drafted")
    found = []
    for engine in _ENGINES:
        rule = next((rule for rule in RULES if rule.engine == engine and map_file.format in rule.formats), None)
        whole = _is_whole(map_file)
        if rule is None:
            readable = [name for other in RULES if other.engine == engine for name in other.formats]
            what = f"does not read this; it reads {', '.join(dict.fromkeys(readable)) or 'no map at all'}"
            found.append(Verdict(engine=engine, loads=False, what=what, traps=()))
        elif not whole:
            what = f"reads it only inside a drafter: {rule.reads}"
            found.append(Verdict(engine=engine, loads=False, what=what, traps=rule.traps))
        else:
            found.append(Verdict(engine=engine, loads=True, what=rule.reads, traps=(*own, *rule.traps)))
    return found


def _is_whole(map_file: MapFile) -> bool:
    """Whether a format that lives inside a drafter comes with one: no engine opens a map alone."""
    if map_file.format == "gguf":
        return bool(map_file.tensors)
    return map_file.format not in (*_CHECKPOINTS, "medusa-token-map") or bool(map_file.config)
