"""Tables: rows of CSV, TSV, Parquet and Arrow files.

Traps: a `.csv` may hold semicolons. A duplicate column name, which csv drops silently, is an error.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from distft.data.files import DataFile
from distft.data.raw import (
    CONVERT,
    HEAD_BYTES,
    MAX_ROW_BYTES,
    Part,
    RawRow,
    UnreadableFile,
    open_file,
    open_text,
    start_of,
)

BATCH_ROWS = 1024  # of Parquet and Arrow files, read at once


def read_csv(path: DataFile, default: str = ",") -> Iterator[RawRow]:
    csv.field_size_limit(min(MAX_ROW_BYTES, sys.maxsize))
    with open_text(path) as file:
        head = file.read(HEAD_BYTES)
    dialect, skipped = _dialect(head, default)
    with open_text(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        for _ in range(skipped):
            text.readline()
        reader = csv.reader(text, strict=True, **dialect)
        header = next(reader, [])
        if twice := [name for name in header if header.count(name) > 1]:
            raise UnreadableFile(f"{path}: its header has {twice[0]!r} twice")
        while True:
            line = reader.line_num + 1 + skipped
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # the reader continues with the next line
                yield RawRow(str(path), line, None, f"line: {error}")
                continue
            if cells and len(cells) != len(header):
                quoting = (
                    f": a cell with {dialect['delimiter']!r} in it needs quotes" if len(cells) > len(header) else ""
                )
                yield RawRow(str(path), line, None, f"line: has {len(cells)} cells, the header {len(header)}{quoting}")
            elif any("\udc80" <= letter <= "\udcff" for cell in cells if not cell.isascii() for letter in cell):
                yield RawRow(str(path), line, None, f"line: is not UTF-8. {CONVERT}")
            elif cells:
                row = zip(header, cells, strict=True)
                yield RawRow(str(path), line, {name: cell or None for name, cell in row})


class Dialect(TypedDict):
    """How a table is written: keywords of csv.reader."""

    delimiter: str
    quotechar: NotRequired[str]
    skipinitialspace: NotRequired[bool]
    escapechar: NotRequired[str]
    doublequote: NotRequired[bool]


def _dialect(head: bytes, default: str) -> tuple[Dialect, int]:
    """Returns the csv dialect of a table, and the number of lines before its header.

    The default dialect if its header has several columns and every row as many, else the one that fits the most rows.
    """
    lines = list(io.StringIO(head.decode("utf-8-sig", errors="surrogateescape"), newline=""))
    if len(head) == HEAD_BYTES:
        lines = lines[:-1]
    separator = re.fullmatch(r"sep=(.)\s*", lines[0]) if lines else None  # Excel's separator line
    if separator:
        return {"delimiter": separator[1]}, 1
    header, text = (lines or [""])[0], "".join(lines)
    quotes = [mark for mark in ('"', "'") if mark == '"' or header.lstrip().startswith(mark)]
    escapes = (False, True) if '\\"' in text else (False,)  # whether \\" stands for a quote in a cell
    best: Dialect = {"delimiter": default}
    most = -1.0
    for delimiter in dict.fromkeys((default, ",", ";", "\t", "|")):
        spaced = f"{delimiter} " in header and delimiter != "\t"
        for quote in quotes:
            for escape in escapes:
                way: Dialect = {"delimiter": delimiter, "quotechar": quote}
                if spaced:
                    way["skipinitialspace"] = True
                if escape:
                    way["escapechar"], way["doublequote"] = "\\", False
                fitting = _fitting(lines, way)
                if fitting > most:
                    best, most = way, fitting
    return best, 0


def _fitting(lines: list[str], way: Dialect) -> float:
    """Returns the fraction of rows with as many cells as the header; 0 for a header of one cell."""
    reader, widths = csv.reader(iter(lines), strict=True, **way), []
    while True:
        try:
            widths.append(len(next(reader)))
        except StopIteration:
            break
        except csv.Error:
            widths.append(-1)
    full = [width for width in widths if width]
    return full.count(full[0]) / len(full) if full and full[0] > 1 else 0.0


def read_parquet(path: DataFile) -> Iterator[Part]:
    number = 1
    with pq.ParquetFile(path if isinstance(path, Path) else open_file(path)) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield TableRows(str(path), number, batch)
            number += batch.num_rows


def read_arrow(path: DataFile) -> Iterator[Part]:
    """Yields the rows of an Arrow file, in the format of files or of streams, as `datasets` writes it."""
    number = 1
    with open_file(path) as file:
        is_file = start_of(path, 6) == b"ARROW1"
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                yield TableRows(str(path), number, part)
                number += part.num_rows


@dataclass(frozen=True)
class TableRows:
    """Consecutive rows of a Parquet or Arrow file, as columns."""

    file: str
    first: int  # number of the first row, from 1
    batch: pa.RecordBatch

    @property
    def num_rows(self) -> int:
        return self.batch.num_rows

    @property
    def num_bytes(self) -> int:
        return self.batch.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as a copy of its own rows; a slice would take the whole batch with it."""
        schema, data = self.batch.schema.serialize().to_pybytes(), self.batch.serialize().to_pybytes()
        return _table_rows, (self.file, self.first, schema, data)

    def rows(self) -> Iterator[RawRow]:
        for number, value in enumerate(self.batch.to_pylist(), self.first):
            yield RawRow(self.file, number, value)


def _table_rows(file: str, first: int, schema: bytes, data: bytes) -> TableRows:
    return TableRows(
        file, first, pa.ipc.read_record_batch(pa.py_buffer(data), pa.ipc.read_schema(pa.py_buffer(schema)))
    )
