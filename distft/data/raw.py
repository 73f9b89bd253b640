"""Raw rows as read from a file, and the opening of files as UTF-8 text: decompressed and transcoded.

Trap: file names mislead, so the first bytes decide how a file is opened.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

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


@dataclass(frozen=True)
class RawRow:
    """One row as read from a file: its value, or the reason why it is malformed."""

    file: str
    line: int  # where the row starts, from 1; in Parquet files and datasets the row's number
    value: dict[str, Any] | None
    reason: str | None = None

    num_rows = 1

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


def open_text(path: Path) -> BinaryIO:
    """Opens a file as UTF-8 text: decompressed, and transcoded where its first bytes show another encoding."""
    start = start_of(path, 4)
    known = next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), "detect")
    stream = io.BufferedReader(pa.input_stream(str(path), compression=known), 2**20)  # type: ignore[arg-type]  # it has the methods of a raw file
    encoding = _encoding(stream.peek(4)[:4])
    if encoding is None:
        return stream
    with stream:
        return io.BufferedReader(io.BytesIO(stream.read().decode(encoding).encode()))  # type: ignore[arg-type]  # the same


def start_of(path: Path, num_bytes: int) -> bytes:
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
