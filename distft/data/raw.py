"""Raw rows as read from a file, and the opening of files as UTF-8 text: decompressed and transcoded.

Trap: file names mislead, so the first bytes decide how a file is opened.
"""

import codecs
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa

from distft.data.example import RawJson
from distft.data.files import DataFile, Member
from distft.data.stores import open_object

MAX_ROW_BYTES = 64 * 2**20
HEAD_BYTES = 2**18
BOM = b"\xef\xbb\xbf"
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
ENCODINGS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"
}  # fmt: skip
CONVERT = "Try: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW, if it comes from Windows"


class UnreadableFile(RuntimeError):
    """A data file cannot be read to its end."""


class Part(Protocol):
    """Consecutive rows of one file, which may not be parsed yet."""

    @property
    def file(self) -> Any: ...  # its str is the file's name in reports

    @property
    def num_rows(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    def rows(self) -> "Iterator[RawRow]": ...


@dataclass(frozen=True)
class RawRow:
    """One row as read from a file: its value, or the reason why it is malformed."""

    file: str
    line: int  # where the row starts, from 1; in Parquet files and datasets the row's number
    value: RawJson | None
    reason: str | None = None

    num_rows = 1

    def rows(self) -> "Iterator[RawRow]":
        yield self

    @property
    def num_bytes(self) -> int:
        """About the size of its text."""
        return _text_bytes(self.value)


def _text_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_text_bytes, value.values()))
    return sum(map(_text_bytes, value)) if isinstance(value, list) else 8


def open_file(file: DataFile) -> BinaryIO:
    """Opens a data file as it is stored; raises UnreadableFile where a library for its store is missing."""
    if isinstance(file, Path):
        return file.open("rb")
    if isinstance(file, Member):
        with zipfile.ZipFile(file.archive) as archive:
            return cast(BinaryIO, archive.open(file.member))  # keeps the archive open
    return open_object(file.url)


def open_text(path: DataFile) -> BinaryIO:
    """Opens a file as UTF-8 text: decompressed, and transcoded where its first bytes show another encoding."""
    start = start_of(path, 4)
    known = next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), "detect")
    place = str(path) if isinstance(path, Path) else open_file(path)
    opened = pa.input_stream(place, compression=known if isinstance(path, Path) or known != "detect" else None)
    stream = io.BufferedReader(opened, 2**20)  # type: ignore[arg-type]  # it has the methods of a raw file
    encoding = _encoding(stream.peek(4)[:4])
    if encoding is None:
        return stream
    return io.BufferedReader(_Transcoded(stream, encoding), 2**20)  # type: ignore[arg-type]  # the same


class _Transcoded(io.RawIOBase):
    """A file of another encoding as UTF-8, converted a piece at a time."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self.stream, self.decoder, self.pending = stream, codecs.getincrementaldecoder(encoding)(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.pending:
            piece = self.stream.read(2**20)
            self.pending = self.decoder.decode(piece, final=not piece).encode()
            if not piece and not self.pending:
                return 0
        count = min(len(buffer), len(self.pending))
        buffer[:count], self.pending = self.pending[:count], self.pending[count:]
        return count

    def close(self) -> None:
        self.stream.close()
        super().close()


def start_of(path: DataFile, num_bytes: int) -> bytes:
    with open_file(path) as file:
        return file.read(num_bytes)


def _encoding(start: bytes) -> str | None:
    """Returns the encoding detected from the first four bytes, None for UTF-8."""
    zeros = tuple(byte == 0 for byte in start)
    by_zeros: dict[tuple[bool, ...], str] = {
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return next((name for bom, name in ENCODINGS.items() if start.startswith(bom)), by_zeros.get(zeros))
