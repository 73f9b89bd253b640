"""Progress of the data stage: rows read, and the share of the bytes of local files whose size is known.

Nothing is counted beforehand. The size of a plain file is the file system's, of a gzip file the one that its last bytes
name, and a Parquet file names its rows. Of other compressed files and of datasets the size is unknown.
Trap: gzip names the size modulo 4 GiB, and that of its last member alone, so a smaller size than the file's is ignored.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.data.blocks import Block
from distft.data.files import COMPRESSED, DataFile, file_kind

Progress = Callable[[int, float | None], None]  # called with the rows read so far and the share of the bytes, 0 to 1


def no_progress(rows: int, share: float | None) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class _Extent:
    """How large a file is, and what its rows add up to: bytes of text, or rows of a Parquet file."""

    name: str
    size: int
    whole: int
    counts_rows: bool = False


class BytesRead:
    """Adds up the bytes of files as their rows are read, in the order of the files."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        extents = [_extent(file) for file in files]
        self._extents = [each for each in extents if each is not None]
        self._known = bool(extents) and len(self._extents) == len(extents)
        self._file, self._done, self._before = 0, 0, 0

    def counted(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yields the blocks, and counts each as read."""
        for block in blocks:
            if self._known:
                for part in block.parts:
                    self._add(str(part.file), part.num_rows, part.num_bytes)
            yield block

    def _add(self, name: str, rows: int, num_bytes: int) -> None:
        ahead = next((i for i in range(self._file, len(self._extents)) if self._extents[i].name == name), self._file)
        if ahead != self._file:  # files without rows are passed too
            self._before += sum(each.size for each in self._extents[self._file : ahead])
            self._file, self._done = ahead, 0
        self._done += rows if self._extents[self._file].counts_rows else num_bytes

    @property
    def share(self) -> float | None:
        """The share of all bytes that is read, from 0 to 1; None where a size is unknown."""
        total = sum(each.size for each in self._extents) if self._known else 0
        if not total:
            return None
        current = self._extents[self._file]
        return (self._before + current.size * min(1.0, self._done / max(1, current.whole))) / total


def _extent(file: DataFile) -> _Extent | None:
    """Returns the size of a local file and of its rows; None where one is unknown."""
    if not isinstance(file, Path):
        return None
    size, suffix = file.stat().st_size, file.suffix.lower()
    if suffix == ".gz":
        whole = _gzip_size(file)
        return _Extent(str(file), size, whole) if whole >= size else None
    if suffix in COMPRESSED:
        return None
    if file_kind(file) == ".parquet":
        import pyarrow.parquet as pq

        return _Extent(str(file), size, pq.read_metadata(file).num_rows, counts_rows=True)
    return _Extent(str(file), size, size)


def _gzip_size(file: Path) -> int:
    """Returns the size of the text of a gzip file, as its last four bytes name it."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 4))
        last = opened.read(4)
    return struct.unpack("<I", last)[0] if len(last) == 4 else 0
