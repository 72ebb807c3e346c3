"""What an EAGLE drafter is: what it reads of its target, how wide it is, which tokens it can draft, and for whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.cli.inspect_map import print_map
from outlex.cli.output import human_bytes, print_facts, stdout_console
from outlex.eagle import EagleCheckpoint
from outlex.formats.eagle_checkpoint import read_eagle
from outlex.formats.eagle_settings import own_section
from outlex.formats.source import Source

if TYPE_CHECKING:
    from outlex.models import LanguageModel

__all__ = ["describe_eagle", "print_eagle"]


def describe_eagle(place: Path, *, target: LanguageModel | None) -> dict[str, Any]:
    """JSON values that describe a drafter, its map left out.

    Args:
        place: directory of the checkpoint.
        target: the model that it has to fit; None believes what the checkpoint says.

    Raises:
        MismatchError: it was made for another target, or does not say how many layers its target has.
        ArtifactError, VocabError: see `read_eagle`.
    """
    checkpoint = read_eagle(place, target=target)
    description = {"kind": "eagle-drafter", "path": str(place), "drafter": _drafter(checkpoint), "target": None}
    if target is not None:
        description["target"] = {
            "name": target.name,
            "n_rows": target.n_rows,
            "fits": True,
            # other programs write sizes alone, which other targets have as well
            "tokenizer_is_proven": bool((own_section(Source(place)).get("target") or {}).get("tokenizer_fingerprint")),
        }
    return description


def _drafter(checkpoint: EagleCheckpoint) -> dict[str, Any]:
    config, weight = checkpoint.config, checkpoint.module.fc.weight
    tensors = [*checkpoint.module.parameters(), checkpoint.embedding, checkpoint.head]
    return {
        "type": config.kind,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "n_bytes": sum(tensor.nbytes for tensor in tensors if tensor is not None),
        "feature_layers": list(config.feature_layers),
        "feature_width": config.n_feature_values,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_length": config.max_length,
        "n_draft": config.n_draft or config.target.n_rows,
        "drafts_all": config.n_draft is None,
        "has_own_embedding": config.has_own_embedding,
        "has_own_head": config.has_own_head,
        "made_for": vars(config.target).copy(),
        "provenance": dict(checkpoint.provenance),
    }


def print_eagle(description: dict[str, Any], as_map: dict[str, Any] | None) -> None:
    """The same for people.

    Args:
        description: of `describe_eagle`.
        as_map: what `describe_map` says of its draft vocabulary; None if that is the target's.
    """
    d, goal = description["drafter"], description["target"]
    made_for = d["made_for"]
    console = stdout_console()
    facts = {
        "drafter": f"{'EAGLE-3' if d['type'] == 'eagle3' else 'EAGLE'}, one layer,"
        f" {human_bytes(d['n_bytes'])} in {d['dtype']}",
        "made for": _target_in_words(made_for),
        "reads": _features_in_words(d),
        "layer": f"{d['hidden_size']:,} wide, MLP of {d['intermediate_size']:,}, {d['n_heads']} heads"
        f" ({d['n_kv_heads']} of keys and values) of {d['head_dim']}",
        "context": f"{d['max_length']:,} tokens",
        "embedding": "its own" if d["has_own_embedding"] else "the target's",
        "head": "its own" if d["has_own_head"] else "the target's",
        "can draft": f"{d['n_draft']:,} of the target's {made_for['n_rows']:,} tokens",
        "tokenizer": made_for["tokenizer_fingerprint"] or "not said: its target's",
    }
    if d["drafts_all"]:
        facts["can draft"] = f"all {d['n_draft']:,} tokens of the target"
    facts |= {f"from: {name}": value for name, value in d["provenance"].items() if isinstance(value, str)}
    if goal is not None:
        yes = "yes" if goal["tokenizer_is_proven"] else "as far as sizes tell, the checkpoint names no tokenizer"
        facts["fits target"] = f"{yes}: {goal['name']}, {goal['n_rows']:,} rows"
    print_facts(console, facts)
    if as_map is not None:
        console.print()
        print_map(as_map)


def _target_in_words(target: dict[str, Any]) -> str:
    layers = "" if target["n_layers"] is None else f"{target['n_layers']} layers, "
    source = "" if target["source"] in (None, target["name"]) else f" ({target['source']})"
    return f"{target['name']}{source}: {layers}{target['hidden_size']:,} wide, {target['n_rows']:,} rows"


def _features_in_words(d: dict[str, Any]) -> str:
    layers, n_layers = d["feature_layers"], d["made_for"]["n_layers"]
    if d["type"] == "eagle":
        return f"the target's last hidden state, {d['feature_width']:,} wide"
    last = " (the last one after the final norm)" if n_layers in layers else ""
    side_by_side = (
        f", side by side {d['feature_width']:,} wide" if len(layers) > 1 else f", {d['feature_width']:,} wide"
    )
    return f"the target's hidden states {', '.join(map(str, layers))}{last}{side_by_side}; 0 is the embedding"
