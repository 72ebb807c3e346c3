"""`count_corpus`: token statistics of a corpus of any size."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from outlex.calibration.corpus import list_files, parse_source
from outlex.calibration.count_config import CountConfig, check_weights
from outlex.calibration.count_run import CountNews, CountRun
from outlex.calibration.encoding import spec_of
from outlex.calibration.stats import TokenStats
from outlex.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CountConfig", "CountNews", "CountResult", "count_corpus"]


@dataclass(frozen=True, kw_only=True)
class CountResult:
    """What came of a run.

    Attributes:
        stats: the statistics, the same however often the run was interrupted and wherever it ran.
        faults: the first records that were left out, in words.
        n_faults: how many were left out, by reason.
        n_cut: records that were encoded in pieces because of their length.
        n_bytes: of text encoded, as UTF-8.
        elapsed_s: of this run, without earlier ones that it went on from.
        was_resumed: whether it went on from a checkpoint.
    """

    stats: TokenStats
    faults: tuple[str, ...]
    n_faults: dict[str, int]
    n_cut: int
    n_bytes: int
    elapsed_s: float
    was_resumed: bool


def count_corpus(
    config: CountConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    on_news: Callable[[CountNews], None] | None = None,
) -> CountResult:
    """Count the tokens of a corpus in several processes, with memory that does not grow with the corpus.

    In a script of your own, call it below ``if __name__ == "__main__":``, because new processes import the script.

    Args:
        config: what to count.
        tokenizer: of the target; begin and end tokens are not added.
        checkpoint: a file that keeps what is done. If it is there, the run goes on from it. It stays, also when the run
            ends well: whoever saves the result removes it then.
        on_news: called now and then.

    Raises:
        InputError: no corpus, nothing in it, a record that cannot be used, or a checkpoint of something else.
        ArtifactError: a damaged file, or a disk that refuses.
        OutlexError: a process was killed; the run can go on from the checkpoint.
    """
    started = time.monotonic()
    spec = spec_of(
        tokenizer,
        chats=config.chats,
        text_field=config.text_field,
        domain_field=config.domain_field,
        on_error=config.on_error,
    )
    sources = [parse_source(given) for given in config.sources]
    check_weights(config, sources)
    files = list_files(sources, format=config.format)
    run = CountRun(config=config, spec=spec, sources=sources, files=files, on_news=on_news, started=started)
    run.go(None if checkpoint is None else Path(checkpoint))
    sums = run.sums
    stats = _stats(run)
    n_faults: Counter[str] = Counter()
    for (_, reason), n in sums.n_faults.items():
        n_faults[reason] += n
    return CountResult(
        stats=stats,
        faults=tuple(sums.faults),
        n_faults=dict(sorted(n_faults.items())),
        n_cut=sums.n_cut,
        n_bytes=sums.n_bytes,
        elapsed_s=time.monotonic() - started,
        was_resumed=run.was_resumed,
    )


def _stats(run: CountRun) -> TokenStats:
    sums = run.sums
    names = sorted(name for name, n in sums.n_documents.items() if n)
    if not names:
        skipped = sum(sums.n_faults.values())
        raise InputError(
            "There is not a single token in the corpus",
            got=f"{len(run.files)} files, {skipped} records left out" + (f"; {sums.faults[0]}" if sums.faults else ""),
            expected="text, or chats with answers",
            next_step="look at the files; --text-field names the field that holds the text",
        )
    described = []
    for index, source in enumerate(run.sources):
        files = [file for file in run.files if file.source == index]
        skipped_here = {reason: n for (at, reason), n in sorted(sums.n_faults.items()) if at == index}
        described.append(
            {
                "source": source.given,
                "n_files": len(files),
                "n_bytes": sum(file.n_bytes for file in files),
                "chats": run.config.chats,
                "text_field": run.config.text_field,
                "skipped": skipped_here,
            }
        )
    return TokenStats(
        domains=tuple(names),
        counts=torch.from_numpy(np.stack([sums.counts[name] for name in names])),
        documents=torch.from_numpy(np.stack([sums.documents[name] for name in names])),
        n_documents=tuple(sums.n_documents[name] for name in names),
        weights=tuple(float(run.config.weights.get(name, 1.0)) for name in names),
        tokenizer_fingerprint=run.spec.fingerprint,
        sources=tuple(described),
    )
