"""What a model is as a target or a drafter: widths, bytes, and whether a trimmed head can pay."""

from __future__ import annotations

from typing import Any

from outlex.cli.options import Machine
from outlex.cli.output import human_bytes, print_facts, stdout_console
from outlex.drafters import IndependentDrafter
from outlex.vocab.must_keep import must_keep
from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

__all__ = ["describe_model", "print_model"]

_EXAMPLE_ROWS = 16_384
_SMALL_SAVING = 0.05  # acceptance lost by a static list of this size is seldom less


def describe_model(source: str, *, target: str | None, machine: Machine) -> dict[str, Any]:
    """JSON values that describe a model.

    Raises:
        ModelError: it cannot be found or loaded, or its head is not a matrix.
        MismatchError: it has another tokenizer than the target.
    """
    model = machine.load(source)
    facts = facts_of(model.tokenizer)
    drafter = IndependentDrafter(model)
    head_bytes, step_bytes = drafter.head.bytes_per_step, drafter.bytes_per_step
    n_rows = min(_EXAMPLE_ROWS, model.n_rows)
    embedding = model.model.get_input_embeddings().weight
    description: dict[str, Any] = {
        "kind": "model",
        "name": model.name,
        "source": model.source,
        "type": model.model.config.model_type,
        "machine": machine.to_json(model),
        "n_rows": model.n_rows,
        "n_tokenizer": facts.n_entries,
        "n_must_keep": len(must_keep(facts)),
        "tokenizer_fingerprint": facts.fingerprint,
        "hidden_size": model.hidden_size,
        "max_length": model.max_length,
        "has_chat_template": bool(model.tokenizer.chat_template),
        "stop_tokens": model.tokenizer.convert_ids_to_tokens(sorted(model.stop_ids)),
        "tied": embedding.data_ptr() == drafter.full_head.weight.data_ptr(),
        "n_bytes": model.n_bytes,
        "head_bytes": head_bytes,
        "step_bytes": step_bytes,
        "head_share": head_bytes / step_bytes,
        "trimmed": {
            "n_draft": n_rows,
            "step_bytes": step_bytes - head_bytes + head_bytes * n_rows // model.n_rows,
        },
    }
    if target is not None:
        other = machine.load(target)
        n_shared = check_same_tokenizer(facts_of(other.tokenizer), facts)
        description["target"] = {"name": other.name, "n_rows": other.n_rows, "n_shared": n_shared}
    return description


def print_model(description: dict[str, Any]) -> None:
    """The same for people."""
    d, trimmed = description, description["trimmed"]
    place = "tied to" if d["tied"] else "apart from"
    chat = "with" if d["has_chat_template"] else "no"
    size = f"{human_bytes(d['n_bytes'])} in {d['machine']['dtype']}"
    facts = {
        "model": f"{d['name']} ({d['source']}), {d['type']}, {size}",
        "vocabulary": f"{d['n_rows']:,} rows, {d['n_tokenizer']:,} tokenizer entries, {d['n_must_keep']} must-keep",
        "context": f"{d['max_length']:,} tokens, {chat} chat template, stops at {' '.join(d['stop_tokens'])}",
        "LM head": f"{human_bytes(d['head_bytes'])}, {d['hidden_size']} wide, {place} the input embeddings",
        "one step": f"reads {human_bytes(d['step_bytes'])}, {d['head_share']:.2f} of it for the head",
        "tokenizer": d["tokenizer_fingerprint"],
    }
    if "target" in d:
        target = d["target"]
        facts["fits target"] = f"yes: {target['name']}, {target['n_shared']:,} shared tokens"
    console = stdout_console()
    print_facts(console, facts)
    saved = 1 - trimmed["step_bytes"] / d["step_bytes"]
    verdict = f"As a drafter, a head of {trimmed['n_draft']:,} rows would save {saved:.2f} of the bytes of a step"
    if saved < _SMALL_SAVING:
        verdict += ": little to gain."
    else:
        verdict += (
            f", so a step bound by memory would be up to {1 / (1 - saved):.2f} times as fast."
            " Whether that outweighs the acceptance it loses, outlex bench measures."
        )
    console.print(f"\n{verdict}", markup=False)
