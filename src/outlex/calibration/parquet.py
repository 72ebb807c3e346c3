"""Parquet files, one row group at a time, only the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from outlex.calibration.opening import damaged_file, open_raw
from outlex.calibration.records import CHAT_FIELD, TEXT_FIELDS
from outlex.errors import ArtifactError, InputError

__all__ = ["read_rows", "rows_of_groups"]

_ROWS_AT_ONCE = 256


def rows_of_groups(path: str, *, text_field: str | None) -> list[int]:
    """How many rows each row group has, after checking that the columns can be used.

    Raises:
        InputError: no column with text, or one of another type; or pyarrow is missing.
        ArtifactError: no Parquet file, or a damaged one.
    """
    with _parquet(path) as file:
        _check_schema(path, file.schema_arrow, text_field)
        return [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]


def read_rows(path: str, group: int, *, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of one row group, with those of the columns that the file has.

    Raises:
        ArtifactError: the file is damaged.
    """
    with _parquet(path) as file:
        present = [name for name in dict.fromkeys(columns) if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=present):
            yield from batch.to_pylist()


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(
            "Parquet files need a package that is not installed",
            got="missing: pyarrow",
            next_step="pip install 'outlex[corpus]'",
        ) from error
    try:
        with open_raw(path) as stream:
            yield ParquetFile(stream)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> ArtifactError:
    return damaged_file(path, str(error).partition("\n")[0])


def _check_schema(path: str, schema: Any, text_field: str | None) -> None:
    from pyarrow import types

    wanted = (CHAT_FIELD, *TEXT_FIELDS) if text_field is None else (text_field,)
    present = [name for name in wanted if name in schema.names]
    if not present:
        raise InputError(
            f"{path} has no column with text",
            got=f"columns {', '.join(schema.names):.300}",
            expected=" or ".join(wanted),
            next_step="name the column that holds the text with --text-field",
        )
    for name in present:
        kind = schema.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if name == CHAT_FIELD and text_field is None:
            fine = types.is_list(kind) or types.is_large_list(kind)
        else:
            fine = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if not fine and not types.is_null(kind):
            raise InputError(
                f"The column {name} of {path} holds no text",
                got=str(kind)[:200],
                expected="a list of messages" if name == CHAT_FIELD else "strings",
                next_step="name the column that holds the text with --text-field",
            )
