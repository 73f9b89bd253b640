"""Integrity: per-block checksums of safetensors files, so that each reader can verify the blocks that it reads.

xxh3_128 hashes gigabytes per second. It detects corruption, not tampering.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

Bytes = bytes | memoryview
_NAME = re.compile(r"[\w\-][\w\-.]*\.safetensors")
BLOCK = 16 * 2**20  # bytes per read; shared filesystems are slow with smaller requests


class Damaged(RuntimeError):
    """A file is corrupt or missing; the message names the file and the reason."""


def check_names(file: Path, names: Iterable[Any]) -> None:
    """Raises Damaged when the index `file` names anything but safetensors files of its own folder."""
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Damaged(f"{file} names {name!r}, which is not a safetensors file in its folder")


@dataclass(frozen=True)
class Checksums:
    """The size of a safetensors file, and the hashes of its header and of each BLOCK of its data."""

    size: int
    header: str
    blocks: list[str]

    @staticmethod
    def of(entry: Mapping[str, Any]) -> "Checksums":
        """Returns the checksums in a file's entry of a manifest."""
        header, *blocks = entry["xxh3_128"]
        return Checksums(entry["bytes"], header, blocks)

    def check_size(self, file: Path) -> None:
        """Raises Damaged when the file is missing or has another size; reads nothing."""
        try:
            size = file.stat().st_size
        except FileNotFoundError as error:
            raise Damaged(f"{file} is missing") from error
        if size != self.size:
            raise Damaged(f"{file} has {size} bytes, its manifest says {self.size}")

    def check_header(self, file: Path, header: Bytes) -> None:
        if block_hash(header) != self.header:
            raise Damaged(f"{file} is corrupt: the hash of its header differs")

    def check_block(self, file: Path, number: int, block: Bytes) -> None:
        if block_hash(block) != self.blocks[number]:
            raise Damaged(f"{file} is corrupt: the hash of block {number} of its data differs")

    def check(self, file: Path) -> None:
        """Reads the whole file; raises Damaged unless every checksum matches."""
        self.check_size(file)
        with file.open("rb", buffering=0) as handle:
            self.check_header(file, _header(handle, self.size))
            for number in range(len(self.blocks)):
                self.check_block(file, number, _read(handle, BLOCK))


class ChecksumWriter:
    """Computes the block hashes of a file while it is written, from parts of any length."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._block = xxhash.xxh3_128()
        self._remaining = BLOCK

    def add(self, part: memoryview) -> None:
        while part:
            piece, part = part[: self._remaining], part[self._remaining :]
            self._block.update(piece)
            self._remaining -= len(piece)
            if not self._remaining:
                self._done.append(self._block.hexdigest())
                self._block, self._remaining = xxhash.xxh3_128(), BLOCK

    def blocks(self) -> list[str]:
        return self._done if self._remaining == BLOCK else [*self._done, self._block.hexdigest()]


def block_hash(content: Bytes) -> str:
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
