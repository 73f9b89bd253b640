"""Rows out of their sources, each with its file and line; one that cannot be read is told as such, the next follows."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from distft.data.hub_client import Refused, Unavailable, Wanted, ask_hub
from distft.data.sources import Source, file_kind

MAX_ROW_BYTES = 64 * 2**20
BOM = b"\xef\xbb\xbf"


class UnreadableFile(RuntimeError):
    """A file that cannot be read to its end."""


@dataclass(frozen=True)
class Found:
    """One row as it stands in its file: its value, or what is wrong with it."""

    file: str
    line: int  # of the row's start; in Parquet files and datasets the row's number, from 1
    value: dict[str, Any] | None
    reason: str | None = None


def read_rows(path: Path) -> Iterator[Found]:
    """Yields every row of a data file, compressed or not, in its order; UnreadableFile if it breaks off."""
    try:
        yield from READERS[file_kind(path)](path)
    except (OSError, EOFError, pa.ArrowException, csv.Error) as error:
        raise UnreadableFile(f"{path}: {error}") from error


def rows_of(source: Source) -> Iterator[Found]:
    """Yields the rows of a source in its order."""
    if source.files:
        for file in source.files:
            yield from read_rows(file)
        return
    name = str(source.saved or source.hub_id)
    for number, row in enumerate(_dataset(source), 1):
        yield Found(name, number, row)


def _dataset(source: Source) -> Any:
    """Opens a saved or hub dataset memory-mapped; RuntimeError in one line where the library fails."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if source.saved is None:
            where = {"split": source.split, "revision": source.revision}
            wanted = Wanted(str(source.hub_id), source.revision, "dataset")
            return ask_hub(wanted, lambda: datasets.load_dataset(str(source.hub_id), source.subset, **where))
        loaded = datasets.load_from_disk(str(source.saved))
        return loaded[source.split] if isinstance(loaded, datasets.DatasetDict) else loaded
    except (Refused, Unavailable):
        raise
    except Exception as error:  # whatever the library raises, the user's question is the same
        raise RuntimeError(f"{source.saved or source.hub_id}, split {source.split}: {error}") from error


def _open(path: Path) -> BinaryIO:
    return io.BufferedReader(pa.input_stream(str(path)), 2**20)  # type: ignore[arg-type]  # quacks like a raw file


def _jsonl(path: Path) -> Iterator[Found]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file), 1):
            if line is None:
                yield Found(str(path), number, None, f"line: is longer than {MAX_ROW_BYTES} bytes")
            elif line.strip():
                yield _parsed(str(path), number, line.removeprefix(BOM) if number == 1 else line)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yields lines, and None for one of more than MAX_ROW_BYTES, which is never held whole."""
    while line := file.readline(MAX_ROW_BYTES):
        if len(line) < MAX_ROW_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_ROW_BYTES)
        yield None


def _parsed(file: str, number: int, line: bytes) -> Found:
    try:
        return _object(file, number, json.loads(line.decode().rstrip("\r\n")))
    except UnicodeDecodeError as error:
        return Found(file, number, None, f"line: is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return Found(file, number, None, f"line: is no JSON at column {error.pos + 1}: {error.msg}")
    except RecursionError:
        return Found(file, number, None, "line: is nested too deeply")
    except ValueError as error:  # integers of more than 4300 digits
        return Found(file, number, None, f"line: {error}")


def _object(file: str, number: int, value: Any) -> Found:
    if isinstance(value, dict):
        return Found(file, number, value)
    return Found(file, number, None, f"line: is a JSON {type(value).__name__}, expected an object")


def _json(path: Path) -> Iterator[Found]:
    """A list of objects, or the lines of a JSONL file that is only called .json."""
    with _open(path) as file:
        head = file.peek(4096).removeprefix(BOM).lstrip()  # type: ignore[attr-defined]
        if not head.startswith(b"["):
            yield from _jsonl(path)
            return
        text = file.read().removeprefix(BOM).decode(errors="surrogateescape")
    decoder, position, line = json.JSONDecoder(), text.index("[") + 1, 1
    counted = 0
    while True:
        position = _skip(text, position)
        if text[position : position + 1] == "]":
            return
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(f"{path}:{line}: is no JSON: {error}; the rest of the file is unreadable") from None
        yield _object(str(path), line, value)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n,":
        position += 1
    return position


def _csv(path: Path, delimiter: str = ",") -> Iterator[Found]:
    csv.field_size_limit(min(MAX_ROW_BYTES, sys.maxsize))
    with _open(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header = next(reader, [])
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # the reader goes on with the next line
                yield Found(str(path), line, None, f"line: {error}")
                continue
            if cells and len(cells) != len(header):
                yield Found(str(path), line, None, f"line: has {len(cells)} cells, the header {len(header)}")
            elif cells:
                yield Found(str(path), line, dict(zip(header, cells, strict=True)))


def _parquet(path: Path) -> Iterator[Found]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield Found(str(path), number, value)


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": lambda path: _csv(path, "\t"),
    ".parquet": _parquet,
}
