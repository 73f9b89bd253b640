"""What a file must be, block by block, so that whoever reads a block can tell whether it is what was written.

xxh3_128 is fast, gigabytes a second. Hashes find damage, not malice.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

Bytes = bytes | memoryview
_NAME = re.compile(r"[\w\-][\w\-.]*\.safetensors")
BLOCK = 16 * 2**20  # bytes: what shared filesystems want to be asked for at least


class Damaged(RuntimeError):
    """A file that must not be loaded; the message names it and what is wrong with it."""


def check_names(file: Path, names: Iterable[Any]) -> None:
    """Raises Damaged when `file`, a list of its neighbours, names anything else: a path may lead out of the folder."""
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Damaged(f"{file} names {name!r}, which is no safetensors file beside it")


@dataclass(frozen=True)
class Seal:
    """The size of a safetensors file, and the hash of its header and of each BLOCK of the data after it."""

    size: int
    header: str
    blocks: list[str]

    @staticmethod
    def of(entry: dict[str, Any]) -> "Seal":
        """Returns what a manifest's entry of a file says."""
        header, *blocks = entry["xxh3_128"]
        return Seal(entry["bytes"], header, blocks)

    def check_size(self, file: Path) -> None:
        """Raises Damaged when the file is missing or has another size; reads nothing."""
        try:
            size = file.stat().st_size
        except FileNotFoundError as error:
            raise Damaged(f"{file} is missing") from error
        if size != self.size:
            raise Damaged(f"{file} has {size} bytes, its manifest says {self.size}")

    def check_header(self, file: Path, header: Bytes) -> None:
        if hash_of(header) != self.header:
            raise Damaged(f"{file} is not what was written: the hash of its header differs")

    def check_block(self, file: Path, number: int, block: Bytes) -> None:
        if hash_of(block) != self.blocks[number]:
            raise Damaged(f"{file} is not what was written: the hash of block {number} of its data differs")

    def check(self, file: Path) -> None:
        """Raises Damaged unless the whole file is what was written."""
        self.check_size(file)
        with file.open("rb", buffering=0) as handle:
            self.check_header(file, _header(handle, self.size))
            for number in range(len(self.blocks)):
                self.check_block(file, number, _read(handle, BLOCK))


class Sealing:
    """Hashes a file's data, the parts of any length, while it is written."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._block = xxhash.xxh3_128()
        self._room = BLOCK

    def add(self, part: memoryview) -> None:
        while part:
            piece, part = part[: self._room], part[self._room :]
            self._block.update(piece)
            self._room -= len(piece)
            if not self._room:
                self._done.append(self._block.hexdigest())
                self._block, self._room = xxhash.xxh3_128(), BLOCK

    def blocks(self) -> list[str]:
        return self._done if self._room == BLOCK else [*self._done, self._block.hexdigest()]


def hash_of(content: Bytes) -> str:
    return xxhash.xxh3_128(content).hexdigest()


def _header(handle: BinaryIO, size: int) -> bytes:
    start = handle.read(8)
    return start + _read(handle, min(int.from_bytes(start, "little"), size))


def _read(handle: BinaryIO, count: int) -> bytes:
    parts = []
    while count and (part := handle.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
