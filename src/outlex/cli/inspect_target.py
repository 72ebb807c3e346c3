"""What `inspect`, `diff` and `convert` have to know of a model: its tokenizer and the width of its head, no weights."""

from __future__ import annotations

from outlex.cli.output import say
from outlex.errors import ModelError
from outlex.formats.fit import TargetFacts
from outlex.models.checkpoint import causal_config, read_json
from outlex.models.locate import locate
from outlex.models.options import resolve_device, resolve_dtype
from outlex.models.progress import Reporter
from outlex.models.tokenizer import quiet_transformers, read_tokenizer
from outlex.vocab.must_keep import MustKeep, must_keep
from outlex.vocab.tokenizer_facts import facts_of

__all__ = ["policy_of", "target_facts"]

_GENERATION = "generation_config.json"


def target_facts(source: str) -> TargetFacts:
    """Read a model's tokenizer and config.

    Args:
        source: as `load_model` takes it.

    Raises:
        ModelError: not found, or no causal model.
        ArtifactError: its files are damaged.
    """
    say(f"reading the tokenizer of {source} ...", style="dim")
    # the type of weights in which a conversion from GGUF is most likely here already
    dtype = resolve_dtype("auto", device=resolve_device("auto"))
    located = locate(source, dtype=dtype, cache_dir=None, report=Reporter(enabled=True))
    with quiet_transformers():
        config = causal_config(located.directory, name=located.name)
        facts = facts_of(read_tokenizer(located.directory))
    text_config = config.get_text_config()
    n_rows = getattr(text_config, "vocab_size", None)
    if type(n_rows) is not int or n_rows < 1:
        raise ModelError(
            f"The config of {located.name} does not say how wide its head is",
            got=f"vocab_size {n_rows!r}",
            expected="a whole number",
            next_step="choose another model of the same family, or give --n-target",
        )
    stop_ids: set[int] = set()
    generation = located.directory / _GENERATION
    settings = read_json(generation).get("eos_token_id") if generation.is_file() else None
    for value in (settings, getattr(config, "eos_token_id", None), getattr(text_config, "eos_token_id", None)):
        stop_ids |= {i for i in (value if isinstance(value, list) else [value]) if type(i) is int}
    return TargetFacts(
        name=located.name,
        n_rows=n_rows,
        facts=facts,
        stop_ids=tuple(sorted(i for i in stop_ids if 0 <= i < facts.n_entries)),
    )


def policy_of(target: TargetFacts) -> MustKeep:
    """What a draft vocabulary for this model never drops."""
    return must_keep(target.facts, stop_ids=target.stop_ids)
