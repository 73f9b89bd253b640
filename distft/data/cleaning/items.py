"""The texts of rows in any format: all strings in them, for held-out rows and benchmark items."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from distft.data.cleaning.options import files_of
from distft.data.cleaning.rules.leakage import Item
from distft.data.raw import RawRow
from distft.data.read import read_rows


def texts_of_rows(rows: Iterable[RawRow]) -> Iterator[Item]:
    """Yields every text of the rows; malformed rows have none."""
    for row in rows:
        for text in leaf_texts(row.value):
            yield Item(f"{row.file}:{row.line}", text)


def texts_of_files(paths: Sequence[str]) -> Iterator[Item]:
    """Yields every text of the rows of files."""
    for file in files_of(paths):
        yield from texts_of_rows(read_rows(file))


def leaf_texts(value: Any) -> Iterator[str]:
    """Yields the strings in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from leaf_texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaf_texts(inner)
