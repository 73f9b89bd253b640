"""Tables: rows of CSV, TSV and Parquet files.

Traps: a `.csv` may hold semicolons. A duplicate column name, which csv drops silently, is an error.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from distft.data.raw import CONVERT, HEAD_BYTES, MAX_ROW_BYTES, RawRow, UnreadableFile, open_text


def read_csv(path: Path, default: str = ",") -> Iterator[RawRow]:
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


def _dialect(head: bytes, default: str) -> tuple[dict[str, Any], int]:
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
    escapes: list[dict[str, Any]] = [{}] + ([{"escapechar": "\\", "doublequote": False}] if '\\"' in text else [])
    best, most = {"delimiter": default}, -1.0
    for delimiter in dict.fromkeys((default, ",", ";", "\t", "|")):
        spaced = {"skipinitialspace": True} if f"{delimiter} " in header and delimiter != "\t" else {}
        for quote in quotes:
            for escape in escapes:
                way = {"delimiter": delimiter, "quotechar": quote, **spaced, **escape}
                fitting = _fitting(lines, way)
                if fitting > most:
                    best, most = way, fitting
    return best, 0


def _fitting(lines: list[str], way: dict[str, Any]) -> float:
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


def read_parquet(path: Path) -> Iterator[RawRow]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield RawRow(str(path), number, value)
