"""JSON rows: JSON Lines, lists, objects that hold a list, and concatenated objects; malformed lines are reported.

Traps: a `.jsonl` may hold one JSON list. A duplicate field name, which json drops silently, is an error.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from distft.data.example import RawJson
from distft.data.files import DataFile
from distft.data.raw import BOM, CONVERT, MAX_ROW_BYTES, RawRow, UnreadableFile, open_text

LINES, LINES_BYTES = 512, 2**20  # lines that travel together, at most about
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


@dataclass(frozen=True)
class Lines:
    """Consecutive lines of a JSON Lines file, not parsed yet; None for a line over MAX_ROW_BYTES."""

    file: str
    first: int  # number of the first line, from 1
    lines: tuple[bytes | None, ...]
    num_bytes: int

    @property
    def num_rows(self) -> int:
        return len(self.lines)

    def rows(self) -> Iterator[RawRow]:
        for number, line in enumerate(self.lines, self.first):
            if line is None:
                yield RawRow(self.file, number, None, f"line: is longer than {MAX_ROW_BYTES} bytes")
            elif line.strip():
                yield _parsed(self.file, number, line.removeprefix(BOM) if number == 1 else line)


def read_json_rows(path: DataFile) -> Iterator[Lines | RawRow]:
    """Yields rows of JSON: JSON Lines, a list, an object that holds a list, or concatenated multi-line objects."""
    yield from _document(path) if _is_document(path) else _lines_of_json(path)


def _is_document(path: DataFile) -> bool:
    """Returns whether a file is one JSON document, or multi-line objects, rather than JSON Lines."""
    with open_text(path) as file:
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


def _lines_of_json(path: DataFile) -> Iterator[Lines]:
    with open_text(path) as file:
        pending: list[bytes | None] = []
        size, first = 0, 1
        for line in _lines(file):
            pending.append(line)
            size += len(line or b"")
            if len(pending) >= LINES or size >= LINES_BYTES:
                yield Lines(str(path), first, tuple(pending), size)
                pending, size, first = [], 0, first + len(pending)
        if pending:
            yield Lines(str(path), first, tuple(pending), size)


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


def _once(pairs: list[tuple[str, Any]]) -> RawJson:
    """Returns the object; raises ValueError for a duplicate field, which json would drop silently."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the field {twice!r} twice")
    return values


DECODER = json.JSONDecoder(object_pairs_hook=_once)
SPACE = re.compile(r"[ \t\r\n]*")
PIECE_BYTES = 2**20  # of a JSON list, read at once
LONGEST_TOKEN = 12  # letters of a literal, number sign or escape that may be cut
SPACE_OR_COMMA = re.compile(r"[ \t\r\n,]*")


def _document(path: DataFile) -> Iterator[RawRow]:
    """Yields rows of a list, an object that holds a list, or concatenated objects.

    A list is read a piece at a time; an object that holds a list is held whole. Raises UnreadableFile where the text is
    not JSON or is truncated.
    """
    with open_text(path) as file:
        window, inside = _Window(file), False  # inside: in a list of rows
        while mark := window.next(SPACE_OR_COMMA if inside else SPACE):
            if mark == ("]" if inside else "["):
                inside = not inside
                window.position += 1
                continue
            line = window.line()
            try:
                value, end = window.decode()
            except (ValueError, RecursionError) as error:
                what = "is not JSON: " if isinstance(error, json.JSONDecodeError) else ""
                raise UnreadableFile(f"{path}:{line}: {what}{error}; the rest of the file is unreadable") from None
            if not inside and (name := _list_of(value)) is not None:
                start = _start_of_list(window.text, window.position, name)
                line += window.text.count("\n", window.position, start)
                yield from _rows_of_list(str(path), line, window.text, start)
            else:
                yield _object(str(path), line, value)
            window.position = end
        if inside:
            raise UnreadableFile(f"{path}:{window.line()}: is a truncated JSON list; the rest of the file is missing")


class _Window:
    """A piece of a text that moves forward over a file; what lies before `position` is dropped with the next piece."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.text, self.position = file, "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._ended, self._line, self._counted = False, 1, 0
        self._more()

    def next(self, skipped: re.Pattern[str]) -> str:
        """Moves over `skipped` and returns the next letter; empty at the end."""
        while True:
            self.position = _after(skipped, self.text, self.position)
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._more():
                return ""

    def decode(self) -> tuple[Any, int]:
        """Returns the JSON value at `position` and where it ends; reads more where the text ends inside it."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - LONGEST_TOKEN
                if not is_cut or len(self.text) - self.position > MAX_ROW_BYTES or not self._more():
                    raise
                continue
            if end < len(self.text) or not self._more():
                return value, end

    def line(self) -> int:
        """Returns the number of the line at `position`, from 1."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def _more(self) -> bool:
        """Reads at least as much as is kept, so that a long value is parsed a few times only; False at the end."""
        if self._ended:
            return False
        self.line()
        kept = self.text[self.position :]
        piece = self.file.read(max(PIECE_BYTES, len(kept)))
        self._ended = not piece
        self.text, self.position, self._counted = kept + self._decoder.decode(piece, final=self._ended), 0, 0
        return not self._ended


def _rows_of_list(file: str, line: int, text: str, position: int) -> Iterator[RawRow]:
    """Yields the rows of the list that begins at a position, which is on a line."""
    counted, position = position, _after(SPACE_OR_COMMA, text, position + 1)
    while text[position] != "]":
        line, counted = line + text.count("\n", counted, position), position
        value, end = DECODER.raw_decode(text, position)
        yield _object(file, line, value)
        position = _after(SPACE_OR_COMMA, text, end)


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
