"""What an artifact directory holds: sizes, origin, fingerprints, tokens where a tokenizer is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.artifact import read_manifest
from outlex.cli.options import Machine
from outlex.cli.output import human_bytes, print_facts, stdout_console
from outlex.drafters import FittedHead, TrimmedDrafter
from outlex.errors import ArtifactError, MismatchError
from outlex.models.cache import cache_root, stamped_sha256
from outlex.models.catalogue import CATALOGUE
from outlex.models.gguf import finished_conversion
from outlex.models.options import resolve_device, resolve_dtype
from outlex.vocab.must_keep import must_keep
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["describe_artifact", "print_artifact"]

_N_SHOWN = 12


def describe_artifact(place: Path, *, target: str | None, machine: Machine) -> dict[str, Any]:
    """JSON values that describe an artifact.

    Raises:
        ArtifactError: damaged, or of a kind that this version does not know.
        MismatchError: it does not fit the target.
    """
    artifact = read_manifest(place)  # what is loaded below reads and checks the tensors
    description: dict[str, Any] = {"kind": artifact.kind, "path": str(place), "written_by": artifact.versions}
    vocab: SubVocab | None
    base: TrimmedDrafter | FittedHead | None = None
    if artifact.kind == "sub-vocab":
        vocab = SubVocab.load(place)
    elif artifact.kind == "fitted-head":
        base = fitted = FittedHead.load(place)
        vocab = fitted.vocab
        description["fitted"] = {**fitted.describe(), "tokenizer_fingerprint": fitted.tokenizer_fingerprint}
    elif artifact.kind == "trimmed-drafter":
        base = trimmed = TrimmedDrafter.load(place)
        vocab = trimmed.vocab
        description["head"] = {
            "n_bytes": trimmed.linear.n_bytes,
            "hidden_size": trimmed.linear.weight.shape[1],
            "dtype": str(trimmed.linear.weight.dtype).removeprefix("torch."),
            "has_bias": trimmed.linear.bias is not None,
        }
    else:
        raise ArtifactError(
            "This version of outlex does not know this kind of artifact",
            got=artifact.kind,
            expected="sub-vocab, trimmed-drafter or fitted-head",
            next_step="use the version of outlex that wrote it, or a newer one",
        )
    if base is not None:
        description["base"] = {"name": base.base_name, "source": base.base_source, "n_rows": base.base_n_rows}
        description["proposal"] = None if base.stored is None else base.stored.to_json()
    description["vocab"] = None if vocab is None else _vocab(vocab)
    tokenizer: PreTrainedTokenizerBase | None = None
    if target is not None:
        model = machine.load(target)
        if vocab is not None:
            vocab.check_tokenizer(facts_of(model.tokenizer))
            vocab.with_target_width(model.n_rows)
        elif base is not None:
            _check_tokenizer(base.tokenizer_fingerprint, facts_of(model.tokenizer))
        description["target"] = {"name": model.name, "n_rows": model.n_rows, "fits": True}
        tokenizer = model.tokenizer
    elif base is not None and vocab is not None:
        tokenizer = _local_tokenizer(base.base_source, machine)
    description["tokens"] = None if tokenizer is None or vocab is None else _tokens(vocab, tokenizer)
    return description


def _vocab(vocab: SubVocab) -> dict[str, Any]:
    return {
        "n_draft": vocab.n_draft,
        "n_target": vocab.n_target,
        "n_tokenizer": vocab.n_tokenizer,
        "n_must_keep": len(vocab.must_keep_ids),
        "fingerprint": vocab.fingerprint,
        "tokenizer_fingerprint": vocab.tokenizer_fingerprint,
        "provenance": dict(vocab.provenance),
    }


def _check_tokenizer(fingerprint: str, facts: TokenizerFacts) -> None:
    if fingerprint != facts.fingerprint:
        raise MismatchError(
            "The head was fitted for a drafter with another tokenizer",
            got=f"{facts.n_entries} entries, fingerprint {facts.fingerprint[:12]}",
            expected=f"fingerprint {fingerprint[:12]}",
            next_step="give the target whose pair was traced, or fit a head for this one with `outlex fit-head`",
        )


def _tokens(vocab: SubVocab, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    kept, policy = set(vocab.draft_to_target.tolist()), must_keep(facts_of(tokenizer))
    always = set(vocab.must_keep_ids)
    ranked = [token_id for token_id in vocab.draft_to_target.tolist() if token_id not in always]

    def spell(some: list[int]) -> list[str]:
        return [tokenizer.decode([token_id]) for token_id in some]

    return {
        "hottest": spell(ranked[:_N_SHOWN]),
        "coldest": spell(ranked[-_N_SHOWN:]),
        "must_keep": {
            reason: {"n_kept": len(kept.intersection(wanted)), "n": len(wanted)}
            for reason, wanted in policy.reasons.items()
            if wanted
        },
    }


def _local_tokenizer(source: str, machine: Machine) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model that is on this machine; None rather than fetch or convert anything."""
    from transformers import AutoTokenizer

    device = resolve_device(machine.device)
    dtype = resolve_dtype(machine.dtype, device=device)
    root, place = cache_root(), Path(source)
    found: Path | str | None = source
    if source in CATALOGUE:
        entry = CATALOGUE[source]
        converted = finished_conversion(source, sha256=entry.gguf_sha256, out_dir=root / "converted", dtype=dtype)
        found = converted or entry.hub_id
    elif place.suffix == ".gguf" and place.is_file():
        sha256 = stamped_sha256(place, root=root)
        found = finished_conversion(place.stem, sha256=sha256, out_dir=root / "converted", dtype=dtype)
    if found is None:
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            found, local_files_only=True, trust_remote_code=False
        )
    except Exception:  # whatever is wrong with it, the tokens are only left out of the description
        return None
    return tokenizer


def print_artifact(description: dict[str, Any]) -> None:
    """The same for people."""
    vocab, base, head = description["vocab"], description.get("base"), description.get("head")
    fitted = description.get("fitted")
    facts = {"kind": description["kind"]}
    if vocab is not None:
        facts["rows"] = (
            f"{vocab['n_draft']:,} for a target of {vocab['n_target']:,} rows"
            f" ({vocab['n_tokenizer']:,} tokenizer entries), {vocab['n_must_keep']} of them must-keep"
        )
    if base is not None:
        facts["base drafter"] = f"{base['name']} ({base['source']}), head of {base['n_rows']:,} rows"
    proposal = description.get("proposal")
    if proposal is not None:
        facts["proposal"] = ": ".join(filter(None, (proposal["name"], proposal.get("reason"))))
    if head is not None:
        facts["head"] = f"{human_bytes(head['n_bytes'])}, {head['dtype']}, {head['hidden_size']} wide"
    if fitted is not None:
        facts |= _fitted_facts(fitted)
    origin = fitted or vocab
    facts["fingerprint"] = origin["fingerprint"]
    facts["tokenizer"] = origin["tokenizer_fingerprint"]
    for name, value in origin["provenance"].items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = "; ".join(map(_short, value))
        facts[f"from: {name}"] = str(value)
    facts["written by"] = ", ".join(f"{name} {version}" for name, version in description["written_by"].items())
    if "target" in description:
        target = description["target"]
        facts["fits target"] = f"yes: {target['name']}, {target['n_rows']:,} rows"
    tokens = description["tokens"]
    if vocab is None:
        facts["tokens"] = "chosen anew at each position, out of all rows"
    elif tokens is None:
        facts["tokens"] = "not shown: no tokenizer at hand; give --target MODEL"
    else:
        facts["hottest"] = " ".join(map(repr, tokens["hottest"]))
        facts["coldest"] = " ".join(map(repr, tokens["coldest"]))
        facts["must-keep"] = ", ".join(
            f"{reason} {count['n_kept']} of {count['n']}" for reason, count in tokens["must_keep"].items()
        )
    print_facts(stdout_console(), facts)


def _fitted_facts(fitted: dict[str, Any]) -> dict[str, str]:
    sizes, preview = fitted["shortlists"], fitted["preview"]
    facts = {"method": fitted["method"]}
    if preview is not None:
        tiers = ", ".join(f"{n:,} rows of rank {rank} in {storage}" for n, rank, storage in preview["tiers"])
        facts["first stage"] = tiers
        if preview["fine_rank"]:
            facts["second stage"] = f"about {sizes['n_candidates']:,} rows of rank {preview['fine_rank']}"
        facts["exact rows"] = f"{sizes['n_exact']:,}"
        facts["fitted to"] = f"{preview['n_positions']:,} positions"
    if fitted["method"] != "preview":
        facts["request"] = f"its own tokens, at most {sizes['capacity']:,}, and the target's best {sizes['top_m']}"
    return facts


def _short(value: Any) -> str:
    """One of several trials in a line; anything else as it is."""
    if isinstance(value, dict) and {"name", "head_bytes", "kept"} <= value.keys():
        return f"{value['name']} {value['head_bytes']:.2%} of the bytes, {value['kept']:.2%} of the acceptance"
    return str(value)
