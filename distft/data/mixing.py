"""Mixing of several sources: caps, epochs and weights decide which rows are written, how often and in what order.

All choices are functions of the rows' contents and order: a sample is the rows with the smallest content hashes, so it
is uniform, stable when rows are added, and the same on every machine. A weight is a share of the mixture's rows. The
mixture is as long as possible without using a source more than its `epochs`, so weights alone never repeat a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from distft.config.data import SourceItem
from distft.data.chunks import Chunk
from distft.data.counts import Split, Stream
from distft.data.shards import ShardWriter

GATHERED_ROWS = 8192  # of a mixture, written at once
HASH_DIGITS = 13  # of a content id, exact in a float64


@dataclass
class Selection:
    """Rows of one stream that go to a split: the chunks in order, each with a mask, bool [rows]."""

    chunks: Sequence[Chunk]
    masks: list[np.ndarray]

    def of_item(self, item: int) -> np.ndarray:
        """Returns the numbers of an item's selected rows, counted over all chunks, int64."""
        found, start = [np.zeros(0, dtype=np.int64)], 0
        for chunk, mask in zip(self.chunks, self.masks, strict=True):
            if chunk.counts["item"] == item:
                found.append(start + np.flatnonzero(mask))
            start += len(mask)
        return np.concatenate(found)

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Returns the content hash of rows as numbers, float64 [rows]; duplicates share one."""
        starts = np.cumsum([0, *(len(mask) for mask in self.masks)])
        found = np.empty(len(rows))
        owners = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(owners):
            mine = owners == number
            ids = self.chunks[number].batch.column("id").take(pa.array(rows[mine] - starts[number])).to_pylist()
            found[mine] = [int(identity[:HASH_DIGITS], 16) for identity in ids]
        return found

    def smallest(self, rows: np.ndarray, count: int) -> np.ndarray:
        """Returns the `count` rows with the smallest content hashes, in their order."""
        if count >= len(rows):
            return rows
        return np.sort(rows[np.argsort(self.keys(rows), kind="stable")[:count]])

    def cap(self, items: Sequence[SourceItem]) -> None:
        """Leaves at most `cap` rows of each item."""
        for number, item in enumerate(items):
            if item.cap is None:
                continue
            rows = self.of_item(number)
            kept = self.smallest(rows, item.cap)
            self._remove(np.setdiff1d(rows, kept, assume_unique=True))

    def _remove(self, rows: np.ndarray) -> None:
        start = 0
        for mask in self.masks:
            mask[rows[(rows >= start) & (rows < start + len(mask))] - start] = False
            start += len(mask)


@dataclass
class ItemCounts:
    """What one item of data.train or data.eval gave, for report.json."""

    stream: str
    path: str
    licence: str | None
    origin: str | None
    read: int
    bad: int
    splits: dict[str, Split] = field(default_factory=dict)
    mixing: dict[str, float] = field(default_factory=dict)  # weight, cap, epochs, where set


def count_items(name: str, items: Sequence[SourceItem], chunks: Sequence[Chunk]) -> list[ItemCounts]:
    """Returns the counters of a stream's items, without splits."""
    found = []
    for number, item in enumerate(items):
        total = Stream.total(chunk.counts["stream"] for chunk in chunks if chunk.counts["item"] == number)
        mixing = {key: value for key in ("weight", "cap", "epochs") if (value := getattr(item, key)) is not None}
        found.append(ItemCounts(name, item.path, item.licence, item.origin, total.read, total.bad, mixing=mixing))
    return found


def write_selection(
    selection: Selection, items: Sequence[SourceItem], counts: Sequence[ItemCounts], writer: ShardWriter, split: Split
) -> None:
    """Writes the selected rows to a split: in the order of the sources, or mixed where an item has weight or epochs."""
    per_item = [each.splits.setdefault(writer.split, Split()) for each in counts]
    if not any(item.weight is not None or item.epochs is not None for item in items):
        for chunk, mask in zip(selection.chunks, selection.masks, strict=True):
            rows = chunk.rows if mask.all() else chunk.rows.filter(pa.array(mask))
            _add(rows, writer, split, per_item[chunk.counts["item"]])
        return
    order = mixture(selection, items)
    for rows, item in _by_item(selection, order):
        per_item[item].add_rows(rows)
    for rows in _in_order(selection, order):
        _add(rows, writer, split)


def mixture(selection: Selection, items: Sequence[SourceItem]) -> np.ndarray:
    """Returns the numbers of the mixture's rows in order, int64; a row may occur several times."""
    available = [selection.of_item(number) for number in range(len(items))]
    sizes = [round(len(rows) * (item.epochs or 1)) for rows, item in zip(available, items, strict=True)]
    if items[0].weight is not None:
        total = sum(float(item.weight or 0) for item in items)
        shares = [float(item.weight or 0) / total for item in items]
        length = min(size / share for size, share in zip(sizes, shares, strict=True))
        sizes = [round(share * length) for share in shares]
    used = [_repeated(selection, rows, size) for rows, size in zip(available, sizes, strict=True)]
    places = np.concatenate([(np.arange(len(rows)) + 0.5) / max(1, len(rows)) for rows in used])
    return np.concatenate(used)[np.argsort(places, kind="stable")]


def _repeated(selection: Selection, rows: np.ndarray, size: int) -> np.ndarray:
    """Returns `size` rows: all of them as often as possible, then a sample."""
    if not len(rows):
        return rows
    passes, rest = divmod(size, len(rows))
    return np.concatenate([*([rows] * passes), selection.smallest(rows, rest)])


def _in_order(selection: Selection, order: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Yields rows of a mixture in order, some thousands at once."""
    starts = np.cumsum([0, *(len(mask) for mask in selection.masks)])
    for start in range(0, len(order), GATHERED_ROWS):
        rows = order[start : start + GATHERED_ROWS]
        owners = np.searchsorted(starts, rows, side="right") - 1
        by_owner = np.argsort(owners, kind="stable")
        parts = []
        for number in np.unique(owners):
            mine = rows[owners == number] - starts[number]
            parts.append(selection.chunks[number].rows.take(pa.array(mine)))
        gathered = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
        yield gathered.take(pa.array(np.argsort(by_owner, kind="stable")))


def _by_item(selection: Selection, order: np.ndarray) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yields the rows of a mixture by chunk, with the number of their item, in no particular order."""
    counts = np.bincount(order, minlength=sum(len(mask) for mask in selection.masks))
    start = 0
    for chunk, mask in zip(selection.chunks, selection.masks, strict=True):
        times = counts[start : start + len(mask)]
        yield chunk.rows.take(pa.array(np.repeat(np.arange(len(mask)), times))), chunk.counts["item"]
        start += len(mask)


def _add(rows: pa.RecordBatch, writer: ShardWriter, *splits: Split) -> None:
    writer.extend(rows)
    for split in splits:
        split.add_rows(rows)
