"""Readers: rows from data files and datasets, each with its file and line; malformed rows are reported and skipped.

Traps: file names mislead. A `.jsonl` may hold one JSON list, a `.csv` semicolons, either may be UTF-16 or gzip, so the
first bytes decide how a file is read. A duplicate field name, which csv and json drop silently, is an error.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from distft.data.documents import read_document
from distft.data.files import DOCUMENTS, LANGUAGES, DataFile, file_kind
from distft.data.hub import HubItem, Refused, Unavailable, call_hub
from distft.data.json_lines import read_json_rows
from distft.data.raw import Part, RawRow, UnreadableFile, start_of
from distft.data.sources import Source
from distft.data.tables import read_arrow, read_csv, read_parquet

NOT_DATA = {
    b"version https://git-lfs": "is a pointer of git-lfs, not the file itself. Try: git lfs pull",
    b"PAR1": "is a Parquet file. Try: rename it to .parquet",
    b"ARROW1": "is an Arrow file. Try: rename it to .arrow",
    b"PK\x03\x04": "is a zip archive or an Excel sheet. Try: unpack it, or save the sheet as CSV",
    b"<!doctype": "is a web page. Try: fetch the file itself",
    b"<html": "is a web page. Try: fetch the file itself",
}


EXPECTED = {
    ".parquet": (b"PAR1",),
    ".arrow": (b"ARROW1",),
    **dict.fromkeys((*DOCUMENTS, *LANGUAGES), (b"<!doctype", b"<html")),
}


def read_rows(path: DataFile) -> Iterator[RawRow]:
    """Yields every row of a data file, compressed or not, in order; raises UnreadableFile if it is truncated."""
    return _parsed_rows(read_parts(path))


def read_parts(path: DataFile) -> Iterator[Part]:
    """Yields the rows of a data file as `read_rows` does, those of JSON Lines as unparsed lines."""
    kind = file_kind(path)
    try:
        start = start_of(path, 24).lstrip().lower()
        for magic, what in NOT_DATA.items():
            if start.startswith(magic.lower()) and magic not in EXPECTED.get(kind, ()):
                raise UnreadableFile(f"{path}: {what}")
        yield from READERS[kind](path)
    except (OSError, EOFError, UnicodeError, pa.ArrowException, csv.Error) as error:
        raise UnreadableFile(f"{path}: {error}") from error


def read_source(source: Source) -> Iterator[RawRow]:
    """Yields the rows of a source in order."""
    return _parsed_rows(source_parts(source))


def _parsed_rows(parts: Iterable[Part]) -> Iterator[RawRow]:
    for part in parts:
        yield from part.rows()


def source_parts(source: Source) -> Iterator[Part]:
    """Yields the rows of a source in order, those of JSON Lines as unparsed lines."""
    if source.files:
        for file in source.files:
            yield from read_parts(file)
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


READERS: dict[str, Callable[[DataFile], Iterator[Part]]] = {
    ".jsonl": read_json_rows,
    ".ndjson": read_json_rows,
    ".json": read_json_rows,
    ".csv": read_csv,
    ".tsv": lambda path: read_csv(path, "\t"),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    **dict.fromkeys((*DOCUMENTS, *LANGUAGES), read_document),
}
