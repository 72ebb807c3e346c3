"""`hf`: a directory that transformers takes as `custom_generate=`, with the draft vocabulary inside.

custom_generate/generate.py        what transformers calls, with the kept ids in it as data; it imports outlex
custom_generate/requirements.txt   outlex
README.md                          how it is used

transformers copies `generate.py` into a cache of its own and runs it there, so it must not need anything beside it. The
kept rows are cut from the drafter again when it is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

from outlex import __version__
from outlex.drafters import TrimmedDrafter, load_draft_head
from outlex.errors import InputError
from outlex.formats.exporting import Exported, ExportRequest
from outlex.formats.writing import write_directory

__all__ = ["export_hf"]

_GENERATE = '''"""Speculative decoding with a small draft vocabulary for `custom_generate=`; needs outlex."""

from __future__ import annotations

DRAFTER = {drafter!r}
# which tokens are drafted, and whose tokens they are: JSON
VOCAB = {vocab!r}


def generate(model, *, drafter=DRAFTER, draft_len=4, seed=None, **arguments):
    """As `model.generate`; `drafter` is the name or the path of the drafter, if it is not where it was."""
    from outlex.transformers_hook.directory import generate_with

    return generate_with(model, VOCAB, drafter=drafter, draft_len=draft_len, seed=seed, **arguments)
'''


def export_hf(request: ExportRequest) -> Exported:
    """Write the directory of a trimmed drafter.

    Raises:
        InputError: a fitted head or a fitted proposal, which are more than a list of tokens, or a width.
        ArtifactError: the artifact is damaged, or the disk refuses.
    """
    artifact = load_draft_head(request.artifact)
    if not isinstance(artifact, TrimmedDrafter) or artifact.proposal is not None:
        raise InputError(
            "Only a trimmed drafter fits into such a directory",
            got=f"{artifact.name}, drawn by {'tli' if artifact.stored is None else artifact.stored.name}",
            expected="an artifact of `outlex trim`, without a fitted proposal",
            next_step="use it in Python: custom_generate=outlex.transformers_hook.speculative(trimmed=DIR)",
        )
    if request.n_target is not None:
        raise InputError(
            "The width of the target's head follows from the model that is generated with",
            got=f"--n-target {request.n_target}",
            next_step="leave --n-target out",
        )
    drafter = request.drafter or artifact.base_source
    config, tensors = artifact.vocab.to_parts()
    ids = {name: tensor.tolist() for name, tensor in tensors.items()}
    notes = [
        "outlex has to be installed where it is used",
        "trust_remote_code=True runs custom_generate/generate.py, as transformers asks for local directories too",
    ]
    if Path(drafter).is_absolute():
        notes.append("the drafter is named by a path of this machine: --drafter OWNER/NAME makes it findable elsewhere")
    usage = f'model.generate(**inputs, custom_generate="{request.output}", trust_remote_code=True)'

    def fill(work: Path) -> None:
        folder = work / "custom_generate"
        folder.mkdir()
        # a JSON text inside a Python string: data stays data
        vocab = json.dumps({"config": config, "tensors": ids}, sort_keys=True)
        (folder / "generate.py").write_text(_GENERATE.format(drafter=drafter, vocab=vocab), encoding="utf-8")
        (folder / "requirements.txt").write_text(f"outlex>={__version__}\n", encoding="utf-8")
        (work / "README.md").write_text(_readme(artifact, drafter, usage), encoding="utf-8")

    write_directory(request.output, fill)
    return Exported(
        output=request.output,
        drafter=drafter,
        n_draft=artifact.n_draft,
        n_target=artifact.vocab.n_target,
        proposal="tli",
        usage=usage,
        notes=tuple(notes),
    )


def _readme(artifact: TrimmedDrafter, drafter: str, usage: str) -> str:
    return f"""# Speculative decoding with {artifact.n_draft:,} draft tokens

A `custom_generate` directory for transformers, written by outlex {__version__}. **outlex has to be installed.**

```python
{usage}
```

Drafts come from `{drafter}` (`drafter=` takes another place of the same model), trimmed to {artifact.n_draft:,} rows of
its head; the law of the text is the target's own. Also taken: `draft_len=`, `seed=`, and what `generate` takes for one
prompt: streamers, stopping criteria, stop strings, lengths, temperature, top-k, top-p, min-p, repetition penalty.
"""
