"""What a counting process does: a few blocks in, sums out. No torch here, so that processes start quickly."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from outlex.calibration.blocks import Block, text_pieces
from outlex.calibration.chat import ChatTemplate, check_messages
from outlex.calibration.encoding import Encoder, EncodingSpec, Ids
from outlex.calibration.faults import Fault, RecordError, damage_fault
from outlex.calibration.records import Document, documents, fault_of, require_no_surrogates
from outlex.errors import ArtifactError, InputError

__all__ = ["MAX_DOMAINS", "BlockCounter", "DomainCounts", "TaskCounts", "too_many_domains"]

_CHARS_AT_ONCE = 1 << 18  # encodings take some hundred bytes a token until they are counted
_DOCUMENTS_AT_ONCE = 1 << 12
_LONG_CHARS = 1 << 20
_MAX_CHAT_CHARS = 1 << 24  # its mask needs the offsets of the whole chat at once
_N_FAULTS_KEPT = 3
MAX_DOMAINS = 128


@dataclass(frozen=True, kw_only=True)
class DomainCounts:
    """Sums for one domain, only of tokens that occur.

    Attributes:
        ids: int64 ``[n]``, ascending.
        counts, documents: int64 ``[n]``.
        n_documents: documents with any token.
    """

    ids: Ids
    counts: Ids
    documents: Ids
    n_documents: int


@dataclass(kw_only=True)
class TaskCounts:
    """What came of some blocks.

    Attributes:
        blocks: ``(file, ordinal, end, end_line)`` of each.
        domains: sums by domain.
        faults: the first unusable records.
        n_faults: how many there were, by source and reason.
        n_bytes: of text and chats that were encoded, as UTF-8.
        n_cut: records so long that they were encoded in pieces.
    """

    blocks: list[tuple[int, int, int, int]]
    domains: dict[str, DomainCounts] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    n_faults: Counter[tuple[int, str]] = field(default_factory=Counter)
    n_bytes: int = 0
    n_cut: int = 0


class _Sums:
    """Dense sums for one domain while a task is worked on."""

    def __init__(self, n_entries: int) -> None:
        self.counts: Ids = np.zeros(n_entries, dtype=np.int64)
        self.documents: Ids = np.zeros(n_entries, dtype=np.int64)
        self.n_documents = 0

    def add(self, ids: Ids, lengths: Ids) -> None:
        """Add documents: ids one after the other, and how many each has."""
        n_entries = len(self.counts)
        self.counts += np.bincount(ids, minlength=n_entries)
        # One number for each pair of document and id: sorted, equal pairs stand side by side.
        keys = np.repeat(np.arange(len(lengths), dtype=np.int64) * n_entries, lengths) + ids
        keys.sort()
        first = np.ones(len(keys), dtype=bool)
        first[1:] = keys[1:] != keys[:-1]
        self.documents += np.bincount(keys[first] % n_entries, minlength=n_entries)
        self.n_documents += int(np.count_nonzero(lengths))

    def result(self) -> DomainCounts:
        """Without the tokens that do not occur."""
        ids = np.flatnonzero(self.counts)
        return DomainCounts(
            ids=ids, counts=self.counts[ids], documents=self.documents[ids], n_documents=self.n_documents
        )


@dataclass
class _Ready:
    """A document as it is encoded: its texts, and of each only the spans if there are any."""

    domain: str
    texts: list[str]
    spans: list[tuple[int, int]] | None = None


class BlockCounter:
    """Counts blocks with one tokenizer."""

    def __init__(self, spec: EncodingSpec) -> None:
        self._spec = spec
        self._encoder = Encoder(spec)
        self._template: ChatTemplate | None = None
        if spec.chat_template is not None:
            self._template = ChatTemplate(
                spec.chat_template, special_tokens=dict(spec.special_tokens), special_texts=spec.special_texts
            )

    def count(self, task: Sequence[Block]) -> TaskCounts:
        """Count some blocks. With ``on_error="stop"`` it ends at the first fault, which the caller has to raise.

        Raises:
            InputError: the corpus holds chats, and the model has no chat template.
            ArtifactError: with ``on_error="stop"``, a Parquet file that cannot be read.
        """
        result = TaskCounts(blocks=[(block.file, block.ordinal, block.end, block.end_line) for block in task])
        sums: dict[str, _Sums] = {}
        waiting: list[_Ready] = []
        n_chars = 0
        for source, ready in self._ready_documents(task):
            if isinstance(ready, Fault):
                result.n_faults[source, ready.reason] += 1
                if len(result.faults) < _N_FAULTS_KEPT:
                    result.faults.append(ready)
                if self._spec.on_error == "stop":
                    return result
                continue
            length = sum(map(len, ready.texts))
            if ready.spans is None and length > _LONG_CHARS:
                self._add_long(ready, sums, result)
                continue
            waiting.append(ready)
            n_chars += length
            if n_chars >= _CHARS_AT_ONCE or len(waiting) >= _DOCUMENTS_AT_ONCE:
                self._add(waiting, sums, result)
                waiting, n_chars = [], 0
        self._add(waiting, sums, result)
        result.domains = {domain: found.result() for domain, found in sums.items()}
        return result

    def _ready_documents(self, task: Sequence[Block]) -> Iterator[tuple[int, _Ready | Fault]]:
        for block in task:
            try:
                for document in documents(
                    block, text_field=self._spec.text_field, domain_field=self._spec.domain_field
                ):
                    if isinstance(document, Fault):
                        yield block.source, document
                        continue
                    try:
                        yield block.source, self._ready(document)
                    except RecordError as error:
                        yield block.source, fault_of(block, document, error)
            except ArtifactError as error:
                if self._spec.on_error == "stop":
                    raise
                yield block.source, damage_fault(block.path, error)

    def _ready(self, document: Document) -> _Ready:
        if document.text is not None:
            return _Ready(document.domain, [document.text])
        messages = check_messages(document.messages)
        if self._spec.chats == "content":
            contents = [message.get("content") for message in messages if message["role"] == "assistant"]
            texts = [text for text in contents if text]
            for text in texts:
                require_no_surrogates(text)
            return _Ready(document.domain, texts)
        if self._template is None:
            raise InputError(
                "The corpus holds chats, and the model has no chat template",
                got="a record with 'messages'",
                expected="the tokenizer of a chat or instruct model",
                next_step="--chats content counts what the assistant says as plain text; or give --tokenizer a model"
                " with a chat template",
            )
        text, spans = self._template.assistant_spans(messages)
        if len(text) > _MAX_CHAT_CHARS:
            raise RecordError("a chat that is too long", f"{len(text):,} characters, {_MAX_CHAT_CHARS:,} at most")
        require_no_surrogates(text)
        return _Ready(document.domain, [text], spans)

    def _add(self, waiting: Sequence[_Ready], sums: dict[str, _Sums], result: TaskCounts) -> None:
        for has_spans in (False, True):
            chosen = [ready for ready in waiting if (ready.spans is not None) == has_spans and ready.texts]
            if not chosen:
                continue
            texts = [text for ready in chosen for text in ready.texts]
            if has_spans:
                ids, lengths = self._encoder.encode_spans(texts, [ready.spans or [] for ready in chosen])
            else:
                ids, lengths = self._encoder.encode(texts)
                firsts = np.cumsum([0] + [len(ready.texts) for ready in chosen[:-1]])
                lengths = np.add.reduceat(lengths, firsts)
            result.n_bytes += sum(_n_bytes(text) for text in texts)
            domains = np.array([ready.domain for ready in chosen], dtype=object)
            for domain in dict.fromkeys(domains.tolist()):
                of_domain = domains == domain
                self._sums(sums, domain).add(ids[np.repeat(of_domain, lengths)], lengths[of_domain])

    def _add_long(self, ready: _Ready, sums: dict[str, _Sums], result: TaskCounts) -> None:
        """A long document in pieces, so that memory stays flat; it still counts as one document."""
        parts = []
        for text in ready.texts:
            for piece in text_pieces(io.BytesIO(text.encode())):
                ids, _ = self._encoder.encode([piece.data.decode()])
                parts.append(ids)
                result.n_bytes += len(piece.data)
        ids = np.concatenate(parts)
        self._sums(sums, ready.domain).add(ids, np.array([len(ids)]))
        result.n_cut += 1

    def _sums(self, sums: dict[str, _Sums], domain: str) -> _Sums:
        if domain not in sums:
            sums[domain] = _Sums(self._spec.n_entries)
            if len(sums) > MAX_DOMAINS:
                raise too_many_domains(self._spec.domain_field)
        return sums[domain]


def too_many_domains(domain_field: str) -> InputError:
    """The error for a field that is no domain: counts of each would not fit in memory."""
    return InputError(
        "There are too many domains",
        got=f"more than {MAX_DOMAINS} values of the field {domain_field!r}",
        expected="a few kinds of text",
        next_step="name another field with --domain-field, or give the source one domain: DOMAIN=PATH",
    )


def _n_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
