"""A plain list of ids: a JSON array, or text with one id a line; hottest first."""

from __future__ import annotations

import json

from outlex.errors import ArtifactError, InputError, VocabError
from outlex.formats.base import MAX_IDS, MapFile, Reading, WriteRequest
from outlex.formats.source import Source
from outlex.formats.writing import write_file
from outlex.vocab.ranking import read_ranking

__all__ = ["TokenIds"]

_FORMATS = {"json ids": "JSON list of ids", "text ids": "text, one id a line"}
_N_SNIFFED = 4096


class TokenIds:
    """What any program can write and read."""

    name = "token-ids"
    suffixes = (".json", ".txt")

    def recognise(self, source: Source) -> str | None:
        """A JSON array, or a text file whose first line is a number alone."""
        if not source.path.is_file() or source.path.suffix not in (".json", ".txt", ""):
            return None
        with source.path.open("rb") as file:
            start = file.read(_N_SNIFFED).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] == b"[":
            return "a JSON array"
        first = start.splitlines()[0] if start else b""
        return "lines of numbers" if source.path.suffix != ".json" and first.strip().isdigit() else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The ids, in their order."""
        try:
            ranking = read_ranking(source.path, n_tokenizer=reading.n_target or MAX_IDS)
        except InputError as error:
            raise VocabError(error.what, got=error.got, expected=error.expected, next_step=error.next_step) from error
        name = str(ranking.provenance["format"])
        if name not in _FORMATS:
            raise ArtifactError(
                f"{source.path} holds counts, not a choice of tokens",
                got=name,
                expected="a list of ids",
                next_step="choose with 'outlex trim --tokens', or give the file as --stats",
            )
        return MapFile(
            format=self.name,
            path=source.path,
            ids=ranking.ids,
            n_target=reading.n_target,
            spelling="absolute",
            settled_by="a plain list is ids",
            layout=_FORMATS[name],
        )

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """Lines if the output ends in .txt, else a JSON array."""
        ids = map_file.ids.tolist()
        text = "".join(f"{i}\n" for i in ids) if request.output.suffix == ".txt" else json.dumps(ids) + "\n"
        write_file(request.output, text.encode())
