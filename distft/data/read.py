"""Readers: rows from data files and datasets, each with its file and line; malformed rows are reported and skipped.

Traps: file names mislead. A `.jsonl` may hold one JSON list, a `.csv` semicolons, either may be UTF-16 or gzip, so the
first bytes decide how a file is read. A duplicate field name, which csv and json drop silently, is an error.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from distft.data.hub import HubItem, Refused, Unavailable, call_hub
from distft.data.sources import Source, file_kind

MAX_ROW_BYTES = 64 * 2**20
HEAD_BYTES = 2**18
BOM = b"\xef\xbb\xbf"
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
ENCODINGS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"
}  # fmt: skip
NOT_DATA = {
    b"version https://git-lfs": "is a pointer of git-lfs, not the file itself. Try: git lfs pull",
    b"PAR1": "is a Parquet file. Try: rename it to .parquet",
    b"ARROW1": "is an Arrow file. Try: pyarrow.parquet.write_table, into a .parquet file",
    b"PK\x03\x04": "is a zip archive or an Excel sheet. Try: unpack it, or save the sheet as CSV",
    b"<!doctype": "is a web page. Try: fetch the file itself",
    b"<html": "is a web page. Try: fetch the file itself",
}
LISTS = (
    "data",
    "rows",
    "examples",
    "train",
    "instances",
    "items",
    "samples",
    "records",
)  # fields that hold all rows
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
METADATA_FIELDS = ("version", "name", "description", "license")


class UnreadableFile(RuntimeError):
    """A data file cannot be read to its end."""


@dataclass(frozen=True)
class RawRow:
    """One row as read from a file: its value, or the reason why it is malformed."""

    file: str
    line: int  # where the row starts, from 1; in Parquet files and datasets the row's number
    value: dict[str, Any] | None
    reason: str | None = None


def read_rows(path: Path) -> Iterator[RawRow]:
    """Yields every row of a data file, compressed or not, in order; raises UnreadableFile if it is truncated."""
    kind = file_kind(path)
    try:
        start = _start(path, 24).lstrip().lower()
        for magic, what in NOT_DATA.items():
            if start.startswith(magic.lower()) and (kind, magic) != (".parquet", b"PAR1"):
                raise UnreadableFile(f"{path}: {what}")
        yield from READERS[kind](path)
    except (OSError, EOFError, UnicodeError, pa.ArrowException, csv.Error) as error:
        raise UnreadableFile(f"{path}: {error}") from error


def read_source(source: Source) -> Iterator[RawRow]:
    """Yields the rows of a source in order."""
    if source.files:
        for file in source.files:
            yield from read_rows(file)
        return
    name = str(source.saved or source.hub_id)
    for number, row in enumerate(_dataset(source), 1):
        yield RawRow(name, number, row)


def _dataset(source: Source) -> Any:
    """Opens a saved or hub dataset memory-mapped; raises a one-line RuntimeError where the library fails."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if source.saved is None:
            where = {"split": source.split, "revision": source.revision}
            wanted = HubItem(str(source.hub_id), source.revision, "dataset")
            return call_hub(wanted, lambda: datasets.load_dataset(str(source.hub_id), source.subset, **where))
        loaded = datasets.load_from_disk(str(source.saved))
        return loaded[source.split] if isinstance(loaded, datasets.DatasetDict) else loaded
    except (Refused, Unavailable):
        raise
    except Exception as error:  # the library raises many types
        raise RuntimeError(f"{source.saved or source.hub_id}, split {source.split}: {error}") from error


def _open(path: Path) -> BinaryIO:
    """Opens a file as UTF-8 text: decompressed, and transcoded where its first bytes show another encoding."""
    start = _start(path, 4)
    known = next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), "detect")
    stream = io.BufferedReader(pa.input_stream(str(path), compression=known), 2**20)  # type: ignore[arg-type]  # it has the methods of a raw file
    encoding = _encoding(stream.peek(4)[:4])
    if encoding is None:
        return stream
    with stream:
        return io.BufferedReader(io.BytesIO(stream.read().decode(encoding).encode()))  # type: ignore[arg-type]  # the same


def _start(path: Path, num_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(num_bytes)


def _encoding(start: bytes) -> str | None:
    """Returns the encoding detected from the first four bytes, None for UTF-8."""
    zeros = tuple(byte == 0 for byte in start)
    by_zeros: dict[tuple[bool, ...], str] = {
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return next((name for bom, name in ENCODINGS.items() if start.startswith(bom)), by_zeros.get(zeros))


def _json(path: Path) -> Iterator[RawRow]:
    """Yields rows of JSON: JSON Lines, a list, an object that holds a list, or concatenated multi-line objects."""
    yield from _document(path) if _is_document(path) else _lines_of_json(path)


def _is_document(path: Path) -> bool:
    """Returns whether a file is one JSON document, or multi-line objects, rather than JSON Lines."""
    with _open(path) as file:
        lines = (line for line in iter(lambda: file.readline(MAX_ROW_BYTES), b"") if line.removeprefix(BOM).strip())
        first = next(lines, b"").removeprefix(BOM).lstrip()
        try:
            value = json.loads(first)
        except RecursionError:
            return False
        except ValueError:
            return first.startswith(b"[") or (first.startswith(b"{") and _ends_later(first, file))
        if next(lines, None) is not None:
            return False
        if splits := _splits_of(value):
            first = f"jq -c '.{splits[0]}[]' {path.name} > {splits[0]}.jsonl"
            raise UnreadableFile(f"{path}: is one object with lists of rows ({', '.join(splits)}). Try: {first}")
        return isinstance(value, list) or _list_of(value) is not None


def _ends_later(first: bytes, file: BinaryIO) -> bool:
    """Returns whether an object that is incomplete on the first line ends on a later one."""
    text = (first + file.read(MAX_ROW_BYTES)).decode(errors="surrogateescape")
    try:
        json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _list_of(value: Any) -> str | None:
    """Returns the name of the field that holds all rows as a list; None where the object is itself a row."""
    if not isinstance(value, dict):
        return None
    lists = [name for name, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    named = [name for name in lists if name in LISTS]
    if len(lists) == 1 and named and all(name in (*lists, *METADATA_FIELDS) for name in value):
        return named[0]
    return None


def _splits_of(value: Any) -> list[str]:
    """Returns the splits of an object that consists of several lists of rows; empty for any other object."""
    lists = [name for name, inner in value.items() if isinstance(inner, list)] if isinstance(value, dict) else []
    return lists if len(lists) > 1 and all(name in SPLITS for name in value) else []


def _lines_of_json(path: Path) -> Iterator[RawRow]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file), 1):
            if line is None:
                yield RawRow(str(path), number, None, f"line: is longer than {MAX_ROW_BYTES} bytes")
            elif line.strip():
                yield _parsed(str(path), number, line.removeprefix(BOM) if number == 1 else line)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yields lines, and None for a line over MAX_ROW_BYTES, which is never held in memory."""
    while line := file.readline(MAX_ROW_BYTES):
        if len(line) < MAX_ROW_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_ROW_BYTES)
        yield None


def _parsed(file: str, number: int, line: bytes) -> RawRow:
    try:
        return _object(file, number, DECODER.decode(line.decode().rstrip("\r\n")))
    except UnicodeDecodeError as error:
        return RawRow(file, number, None, f"line: is not UTF-8 at byte {error.start}. {CONVERT}")
    except json.JSONDecodeError as error:
        return RawRow(file, number, None, f"line: is not JSON at column {error.pos + 1}: {error.msg}")
    except RecursionError:
        return RawRow(file, number, None, "line: is nested too deeply")
    except ValueError as error:  # integers of more than 4300 digits, duplicate fields
        return RawRow(file, number, None, f"line: {error}")


def _object(file: str, number: int, value: Any) -> RawRow:
    if isinstance(value, dict):
        return RawRow(file, number, value)
    return RawRow(file, number, None, f"line: is a JSON {type(value).__name__}, expected an object")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object; raises ValueError for a duplicate field, which json would drop silently."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the field {twice!r} twice")
    return values


DECODER = json.JSONDecoder(object_pairs_hook=_once)
CONVERT = "Try: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW, if it comes from Windows"
SPACE = re.compile(r"[ \t\r\n]*")
SPACE_OR_COMMA = re.compile(r"[ \t\r\n,]*")


def _document(path: Path) -> Iterator[RawRow]:
    """Yields rows of a list, an object that holds a list, or concatenated objects.

    Raises UnreadableFile where the text is not JSON or is truncated.
    """
    with _open(path) as file:
        text = file.read().removeprefix(BOM).decode(errors="surrogateescape")
    position, line, counted = _after(SPACE, text, 0), 1, 0
    inside, back = False, None  # in a list of rows; the position after the object that holds it
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        if not inside and text[position] == "[":
            inside, position = True, _after(SPACE_OR_COMMA, text, position + 1)
            continue
        if inside and text[position] == "]":
            inside, position = False, _after(SPACE, text, back or position + 1)
            back = None
            continue
        try:
            value, end = DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            what = "is not JSON: " if isinstance(error, json.JSONDecodeError) else ""
            raise UnreadableFile(f"{path}:{line}: {what}{error}; the rest of the file is unreadable") from None
        name = None if inside else _list_of(value)
        if name is not None:
            position, back = _start_of_list(text, position, name), end
            continue
        yield _object(str(path), line, value)
        position = _after(SPACE_OR_COMMA if inside else SPACE, text, end)
    if inside:
        raise UnreadableFile(f"{path}:{line}: is a truncated JSON list; the rest of the file is missing")


def _start_of_list(text: str, position: int, name: str) -> int:
    """Returns the position of the list in field `name` of the object at `position`."""
    position += 1
    while True:
        key, position = DECODER.raw_decode(text, _after(SPACE_OR_COMMA, text, position))
        position = _after(SPACE, text, _after(SPACE, text, position) + 1)  # the colon
        if key == name:
            return position
        _, position = DECODER.raw_decode(text, position)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def _csv(path: Path, default: str = ",") -> Iterator[RawRow]:
    csv.field_size_limit(min(MAX_ROW_BYTES, sys.maxsize))
    with _open(path) as file:
        head = file.read(HEAD_BYTES)
    dialect, skipped = _dialect(head, default)
    with _open(path) as file:
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


def _parquet(path: Path) -> Iterator[RawRow]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield RawRow(str(path), number, value)


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": lambda path: _csv(path, "\t"),
    ".parquet": _parquet,
}
