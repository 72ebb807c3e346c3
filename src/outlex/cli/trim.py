"""`outlex trim`: choose the draft vocabulary, cut its LM-head rows out of a drafter, write the artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlex.cli.options import MODEL_HELP, DeviceOption, DtypeOption, JsonOption, Machine, ThreadsOption
from outlex.cli.output import copyable, emit_json, human_bytes, print_facts, stdout_console
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.drafters import TrimmedDrafter
    from outlex.models import LanguageModel
    from outlex.vocab.must_keep import MustKeep
    from outlex.vocab.ranking import Ranking
    from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["trim"]


@dataclass(frozen=True, kw_only=True)
class TrimConfig:
    """One trim.

    Attributes:
        drafter: what `load_model` loads it by.
        tokens: a ranking, see `outlex.vocab.ranking.read_ranking`.
        size: rows to keep.
        output: directory of the artifact.
        target: the model it will draft for; None takes the drafter's own width.
        keep: ids or tokens to keep whatever the ranking says.
        machine: where the models are loaded.
    """

    drafter: str
    tokens: Path
    size: int
    output: Path
    target: str | None
    keep: tuple[str, ...]
    machine: Machine


def trim(
    drafter: Annotated[str, typer.Argument(help=f"The drafter: {MODEL_HELP}.")],
    tokens: Annotated[
        Path,
        typer.Option(
            "--tokens",
            help="Which tokens are needed most: a JSON list of ids, a JSON object of counts by id, lines"
            " 'id' or 'id TAB count', a safetensors file with 'counts', or a sub-vocabulary directory.",
        ),
    ],
    size: Annotated[int, typer.Option("--size", help="Rows to keep.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Directory to write; an artifact in it is replaced as a whole."),
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", help="The model it will draft for: checks the tokenizers, takes its width."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="A token or token id that must stay; may be given several times."),
    ] = None,
    as_json: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Trim a drafter's LM head to the tokens that matter.

    End, special, byte, digit and whitespace tokens always stay. The input embeddings are not touched, so the
    drafter still reads every token; it only proposes fewer.

    \b
    Example:
      outlex trim qwen05 --tokens counts.json --size 16384 -o qwen05-16k
    """
    config = TrimConfig(
        drafter=drafter,
        tokens=tokens,
        size=size,
        output=output,
        target=target,
        keep=tuple(keep or ()),
        machine=Machine(dtype=dtype, device=device, threads=threads),
    )
    result = _run(config)
    if as_json:
        emit_json(result)
    else:
        _print(result)


def _run(config: TrimConfig) -> dict[str, Any]:
    from outlex.artifact import check_destination
    from outlex.drafters.trimmed import KIND
    from outlex.drafters.trimmed import trim as trim_drafter
    from outlex.models.output_head import output_head
    from outlex.vocab.must_keep import must_keep
    from outlex.vocab.ranking import read_ranking
    from outlex.vocab.sub_vocab import SubVocab
    from outlex.vocab.tokenizer_facts import facts_of

    check_destination(config.output, kind=KIND)
    if not config.tokens.exists():
        raise InputError("There is no such token list", got=config.tokens, next_step="check the path given as --tokens")
    drafter = config.machine.load(config.drafter)
    facts = facts_of(drafter.tokenizer)
    ranking = read_ranking(config.tokens, n_tokenizer=facts.n_entries)
    full = output_head(drafter)
    n_target, stop_ids = full.n_rows, drafter.stop_ids
    if config.target is not None and config.target != config.drafter:
        n_target, target_stop_ids = _read_target(config.target, config.machine, facts)
        stop_ids |= target_stop_ids
    kept = must_keep(
        facts,
        stop_ids=sorted(i for i in stop_ids if i < facts.n_entries),
        extra_ids=[_token_id(word, drafter) for word in config.keep],
    )
    vocab = SubVocab.from_ranking(
        ranking.ids,
        size=config.size,
        facts=facts,
        n_target=min(n_target, full.n_rows),
        must_keep=kept,
        provenance=ranking.provenance,
    ).with_target_width(n_target)
    trimmed = trim_drafter(drafter, vocab)
    trimmed.save(config.output)
    return _report(config, trimmed, kept=kept, ranking=ranking, full_bytes=full.n_bytes)


def _read_target(source: str, machine: Machine, facts: TokenizerFacts) -> tuple[int, frozenset[int]]:
    """Width and stop ids of the target. Its weights are let go at once: they are not needed to trim."""
    from outlex.vocab.tokenizer_facts import check_same_tokenizer, facts_of

    target = machine.load(source)
    check_same_tokenizer(facts_of(target.tokenizer), facts)
    return target.n_rows, target.stop_ids


def _token_id(word: str, drafter: LanguageModel) -> int:
    """A number is an id; anything else is a token as the tokenizer writes it, or text that is one token."""
    if word.isdecimal():
        return int(word)
    piece_id = drafter.tokenizer.get_vocab().get(word)
    if piece_id is not None:
        return int(piece_id)
    ids = drafter.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        pieces = drafter.tokenizer.convert_ids_to_tokens(ids)
        raise InputError(
            "--keep takes one token at a time",
            got=f"{word!r}, which is {len(ids)} tokens: {' '.join(map(repr, pieces))}",
            expected="a token id, or text that is a single token",
            next_step="give --keep once for each of these tokens",
        )
    return ids[0]


def _report(
    config: TrimConfig, trimmed: TrimmedDrafter, *, kept: MustKeep, ranking: Ranking, full_bytes: int
) -> dict[str, Any]:
    vocab = trimmed.vocab
    command = ["generate", "--target", config.target or "TARGET", "--drafter", config.drafter]
    command += ["--trimmed", str(config.output), "-p", "Write a haiku about small words."]
    return {
        "output": str(config.output),
        "base": trimmed.base_name,
        "n_draft": vocab.n_draft,
        "n_full": trimmed.base_n_rows,
        "n_target": vocab.n_target,
        "n_tokenizer": vocab.n_tokenizer,
        "n_must_keep": {"all": len(kept), **{reason: len(ids) for reason, ids in kept.reasons.items()}},
        "selection": dict(vocab.provenance["selection"]),
        "head_bytes": {"before": full_bytes, "after": trimmed.linear.n_bytes},
        "coverage": None if ranking.counts is None else vocab.coverage(ranking.counts),
        "ranking": ranking.provenance,
        "fingerprint": vocab.fingerprint,
        "next": copyable(command),
    }


def _print(result: dict[str, Any]) -> None:
    console, selection, head = stdout_console(), result["selection"], result["head_bytes"]
    reasons = ", ".join(f"{reason} {n}" for reason, n in result["n_must_keep"].items() if n and reason != "all")
    coverage = result["coverage"]
    print_facts(
        console,
        {
            "artifact": result["output"],
            "rows kept": f"{result['n_draft']:,} of {result['n_full']:,} of {result['base']}",
            "must-keep": f"{selection['n_must_keep']} ({reasons}; a token can have several reasons)",
            "not ranked": f"{selection['n_filled']:,} rows filled in the tokenizer's own order",
            "LM head": f"{human_bytes(head['before'])} -> {human_bytes(head['after'])}",
            "coverage": "unknown: the list has no counts" if coverage is None else f"{coverage:.4f} of the counts",
            "fingerprint": result["fingerprint"][:12],
        },
    )
    console.print("\nTry it:", style="bold")
    console.print(f"  {result['next']}", markup=False, soft_wrap=True)
