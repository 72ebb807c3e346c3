"""Reads the files of a corpus in order and cuts them into tasks, beginning where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from outlex.calibration.blocks import BLOCK_BYTES, Block, line_pieces, text_pieces
from outlex.calibration.checkpoint import Progress
from outlex.calibration.corpus import CorpusFile, Source
from outlex.calibration.faults import Fault, damage_fault
from outlex.calibration.opening import damaged_file, open_file, reading_errors
from outlex.calibration.parquet import rows_of_groups
from outlex.errors import ArtifactError

__all__ = ["CorpusReader"]

_BLOCKS_AT_ONCE = 256


@dataclass(kw_only=True)
class CorpusReader:
    """Makes tasks of about one block's size, each a tuple of blocks of one or more files.

    Attributes:
        sources, files: what to read.
        text_field: see `EncodingSpec`.
        stops: whether a damaged file ends the work; otherwise its rest is left out.
        progress: what is already counted; it is told how many blocks each file has.
        block_bytes: size of a block.
        faults: damaged files that the progress does not know yet, with the index of their source; grows while tasks
            are taken.
    """

    sources: Sequence[Source]
    files: Sequence[CorpusFile]
    text_field: str | None
    stops: bool
    progress: Progress
    block_bytes: int = BLOCK_BYTES
    faults: list[tuple[int, Fault]] = field(default_factory=list)

    def tasks(self) -> Iterator[tuple[Block, ...]]:
        """All blocks that are not counted yet.

        Raises:
            InputError: a Parquet file without a column that can be counted.
            ArtifactError: a damaged file, if that ends the work.
        """
        task: list[Block] = []
        size = 0
        for block in self._blocks():
            task.append(block)
            size += self.block_bytes if block.kind == "rows" else len(block.data)
            if size >= self.block_bytes // 2 or len(task) >= _BLOCKS_AT_ONCE:
                yield tuple(task)
                task, size = [], 0
        if task:
            yield tuple(task)

    def _blocks(self) -> Iterator[Block]:
        for index, file in enumerate(self.files):
            if self.progress.is_finished(index):
                continue
            ordinal = self.progress.of(index).n_done
            try:
                blocks = self._row_groups(index, file) if file.format == "parquet" else self._pieces(index, file)
                for block in blocks:
                    ordinal = block.ordinal + 1
                    if not self.progress.is_counted(index, block.ordinal):
                        yield block
            except ArtifactError as error:
                if self.stops:
                    raise
                if self.progress.of(index).n_blocks is None:
                    self.faults.append((file.source, damage_fault(file.path, error)))
            self.progress.set_n_blocks(index, ordinal)

    def _pieces(self, index: int, file: CorpusFile) -> Iterator[Block]:
        done = self.progress.of(index)
        source = self.sources[file.source]
        cut = line_pieces if file.format == "jsonl" else text_pieces
        try:
            with open_file(file.path, compression=file.compression) as opened:
                opened.skip_to(done.end)
                pieces = cut(opened.stream, start=done.end, first_line=done.end_line, block_bytes=self.block_bytes)
                for ordinal, piece in enumerate(pieces, done.n_done):
                    yield Block(
                        source=file.source,
                        file=index,
                        ordinal=ordinal,
                        path=file.path,
                        kind="lines" if file.format == "jsonl" else "text",
                        domain=source.domain,
                        fallback=source.fallback,
                        first_line=piece.first_line,
                        data=piece.data,
                        overlong=piece.overlong,
                        end=piece.end,
                        end_line=piece.end_line,
                        position=opened.raw.tell(),
                    )
        except reading_errors() as error:
            raise damaged_file(file.path, error) from error

    def _row_groups(self, index: int, file: CorpusFile) -> Iterator[Block]:
        source = self.sources[file.source]
        sizes = rows_of_groups(file.path, text_field=self.text_field)
        row = 1
        for ordinal, n_rows in enumerate(sizes):
            yield Block(
                source=file.source,
                file=index,
                ordinal=ordinal,
                path=file.path,
                kind="rows",
                domain=source.domain,
                fallback=source.fallback,
                first_line=row,
                data=b"",
                overlong=0,
                end=0,
                end_line=1,
                position=file.n_bytes * (ordinal + 1) // len(sizes),
            )
            row += n_rows
