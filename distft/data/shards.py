"""Shards: Arrow files of tokenized rows, written once and memory-mapped by every process.

It imports only numpy and pyarrow, so that reading rows needs neither torch, transformers nor datasets.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from distft.run import read_json

MANIFEST = "manifest.json"  # present once `prepare` has finished the folder
SHARD_BYTES = 64 * 2**20
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("trained", pa.list_(pa.bool_())),
        ("length", pa.int32()),
        ("num_targets", pa.int32()),  # units of the loss: see Row.num_targets
        ("id", pa.string()),  # hash of the normalized text; duplicates share it
        ("weights", pa.list_(pa.float32())),  # of each token in the loss; null: all 1
        ("target_weight", pa.float64()),  # sum of the weights of the targets
        ("labels", pa.list_(pa.float32())),  # null: the tokens are the targets; see Row.labels
        ("borders", pa.list_(pa.int32())),  # starts of further documents inside the row; null: a row is one document
    ]
)


@dataclass(frozen=True)
class TopK:
    """A teacher's distributions at the N targets of a row: the k most probable tokens, and all others together."""

    ids: np.ndarray  # int32 [N, k]
    log_probabilities: np.ndarray  # float32 [N, k + 1], in nats; the last is that of all other tokens


@dataclass(frozen=True)
class Row:
    """One row: its T tokens, and what the loss reads of them. A row is one document, or with `borders` several.

    There are three kinds of row:
      tokens  neither labels nor borders: the trained tokens are the targets (causal_lm)
      labels  `trained` marks the tokens whose outputs are compared with a label, N of them: the last token for a label
              of the whole row, else one token per label
      group   with borders: the row is one unit of the loss. A preference pair is [prompt + chosen][prompt + rejected]
              with the start of the second as its border; trained tokens are targets, as in a row of tokens
    """

    input_ids: np.ndarray  # int32 [T]
    trained: np.ndarray  # bool [T], by position, never by id
    weights: np.ndarray | None = None  # float32 [T], in the loss; of a group [1]; None: all 1
    labels: np.ndarray | None = None  # float32 [N * L], L per unit: the number of a class, 0 or 1 per class, or values
    borders: np.ndarray | None = None  # int32, starts of the documents after the first; may be empty
    reference: np.ndarray | None = None  # float64, log-probability of each document under the frozen base; see Rows
    teacher: TopK | None = None  # at the targets; see Rows

    def pieces(self, max_length: int) -> "list[Row]":
        """Returns a row of tokens cut into rows of `max_length` tokens; the last may be shorter."""
        assert self.labels is None and self.borders is None, "such a row is cut by its task"
        cuts = [slice(start, start + max_length) for start in range(0, len(self.input_ids), max_length)]
        return [
            Row(self.input_ids[cut], self.trained[cut], None if self.weights is None else self.weights[cut])
            for cut in cuts
        ]

    def documents(self) -> "list[Row]":
        """Returns the documents of a group as rows of tokens: of a pair the chosen and the rejected side."""
        borders = [] if self.borders is None else self.borders.tolist()
        cuts = [slice(*edges) for edges in pairwise([0, *borders, len(self.input_ids)])]
        return [Row(self.input_ids[cut], self.trained[cut]) for cut in cuts]

    def weighted(self, class_weights: np.ndarray) -> "Row":
        """Returns a row of labels with its weights times those of its classes, float32 [C]."""
        assert self.labels is not None and self.borders is None
        weights = np.ones(len(self.input_ids), np.float32) if self.weights is None else self.weights.copy()
        weights[self.trained] *= class_weights[self.labels.astype(np.int64)]
        return replace(self, weights=weights)

    @property
    def num_targets(self) -> int:
        """The units of the loss: a group is one; else labelled tokens, or trained tokens at index >= 1."""
        if self.borders is not None:
            return 1
        return int(np.count_nonzero(self.trained[0 if self.labels is not None else 1 :]))

    @property
    def target_weight(self) -> float:
        """Sum of the weights of the units: what this row adds to the denominator of a step."""
        if self.weights is None:
            return float(self.num_targets)
        if self.borders is not None:
            return float(self.weights[0])
        start = 0 if self.labels is not None else 1
        return float(self.weights[start:][self.trained[start:]].sum(dtype=np.float64))


def batch_of(rows: Sequence[tuple[Row, str]]) -> pa.RecordBatch:
    """Returns rows with their content ids as one record batch of SCHEMA."""
    lengths = np.array([len(row.input_ids) for row, _ in rows], dtype=np.int32)
    input_ids = np.concatenate([row.input_ids for row, _ in rows] or [np.zeros(0, dtype=np.int32)])
    trained = np.concatenate([row.trained for row, _ in rows] or [np.zeros(0, dtype=bool)])
    others = [
        pa.array([row.num_targets for row, _ in rows], pa.int32()),
        pa.array([content_id for _, content_id in rows], pa.string()),
        pa.array([row.weights for row, _ in rows], pa.list_(pa.float32())),
        pa.array([row.target_weight for row, _ in rows], pa.float64()),
        pa.array([row.labels for row, _ in rows], pa.list_(pa.float32())),
        pa.array([row.borders for row, _ in rows], pa.list_(pa.int32())),
    ]
    return _batch(lengths, input_ids, trained, others)


def _batch(
    lengths: np.ndarray, input_ids: np.ndarray, trained: np.ndarray, others: Sequence[pa.Array]
) -> pa.RecordBatch:
    """Returns a batch of SCHEMA; others: its columns after `length`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = [pa.ListArray.from_arrays(offsets, each) for each in (input_ids, trained)]
    return pa.record_batch([*tokens, pa.array(lengths), *others], schema=SCHEMA)


class ShardWriter:
    """Writes the rows of one split, in order, to files of about SHARD_BYTES; `close` writes the last file.

    The files depend on the order of the rows alone, not on how they are divided into batches.
    """

    def __init__(self, folder: Path, split: str, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.split, self.shard_bytes = folder, split, shard_bytes
        self.files: list[str] = []
        self.rows = 0
        self._pending: list[pa.RecordBatch] = []
        self._rows: list[tuple[Row, str]] = []  # not in a batch yet
        self._bytes = 0

    def add(self, row: Row, content_id: str) -> None:
        self._rows.append((row, content_id))
        self._bytes += row.input_ids.nbytes
        self.rows += 1
        if self._bytes >= self.shard_bytes:
            self._write()

    def extend(self, batch: pa.RecordBatch) -> None:
        """Adds rows of SCHEMA."""
        self._gather()
        self.rows += batch.num_rows
        sizes = np.cumsum(batch.column("length").to_numpy(), dtype=np.int64) * np.dtype(np.int32).itemsize
        start = 0
        while start < batch.num_rows:
            before = int(sizes[start - 1]) if start else 0
            end = int(np.searchsorted(sizes, before + self.shard_bytes - self._bytes)) + 1
            end = min(end, batch.num_rows)
            self._pending.append(batch.slice(start, end - start))
            self._bytes += int(sizes[end - 1]) - before
            if self._bytes >= self.shard_bytes:
                self._write()
            start = end

    def close(self) -> None:
        if self._pending or self._rows:
            self._write()

    def _gather(self) -> None:
        if self._rows:
            self._pending.append(batch_of(self._rows))
            self._rows = []

    def _write(self) -> None:
        self._gather()
        name = shard_name(self.split, len(self.files))

        def joined(column: str, of: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
            return np.concatenate([of(batch.column(column)) for batch in self._pending])

        batch = _batch(
            joined("length", pa.Array.to_numpy),
            joined("input_ids", lambda lists: lists.flatten().to_numpy()),
            joined("trained", lambda lists: lists.flatten().to_numpy(zero_copy_only=False)),
            [pa.concat_arrays([batch.column(name) for batch in self._pending]) for name in SCHEMA.names[3:]],
        )
        with pa.OSFile(str(self.folder / name), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_batch(batch)
        self.files.append(name)
        self._pending, self._bytes = [], 0


class Rows:
    """The rows of one split in their fixed order, read on demand; `shards` selects some of the files."""

    def __init__(
        self,
        folder: Path | str,
        split: str,
        shards: Sequence[int] | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """class_weights: of classes in the loss, which multiply the weights of the units with them; None: all 1."""
        self.folder, self.split = Path(folder), split
        self.class_weights = None if class_weights is None else np.array(class_weights, dtype=np.float32)
        present = _present(self.folder, split)
        wanted = range(len(present)) if shards is None else shards
        missing = [number for number in wanted if not 0 <= number < len(present)]
        if missing:
            raise ValueError(f"data.shards={list(wanted)}: there is no shard {missing[0]}, {_range(len(present))}")
        self._batches = [_open(present[number]) for number in wanted]
        self._starts = np.cumsum([0] + [batch.num_rows for batch in self._batches])
        self.reference: np.ndarray | None = None  # float64 [rows, documents of a row], as the rows' own
        self.teacher: Callable[[int], TopK] | None = None  # row -> a teacher's distributions at its targets

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} {self.split} rows")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._views[shard].row(index - int(self._starts[shard]))
        row = row if self.class_weights is None else row.weighted(self.class_weights)
        row = row if self.teacher is None else replace(row, teacher=self.teacher(index))
        return row if self.reference is None else replace(row, reference=self.reference[index])

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def with_reference(self, reference: np.ndarray) -> "Rows":
        """Returns the rows with the log-probabilities of their documents under the frozen base, [rows, documents]."""
        found = copy(self)
        found.reference = reference
        return found

    def with_teacher(self, teacher: Callable[[int], TopK]) -> "Rows":
        """Returns the rows with a teacher's distributions at their targets. teacher: the index of a row -> its own."""
        found = copy(self)
        found.teacher = teacher
        return found

    @cached_property
    def documents_per_row(self) -> int:
        """The documents of each row, from the first one."""
        borders = self[0].borders if len(self) else None
        return 1 if borders is None else 1 + len(borders)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int32 [rows]."""
        return self._column("length")

    @cached_property
    def num_targets(self) -> np.ndarray:
        """Units of the loss per row, int32 [rows]: see Row.num_targets."""
        return self._column("num_targets")

    @cached_property
    def target_weight(self) -> np.ndarray:
        """Sum of the weights of the units per row, float64 [rows]; their number where no row has weights."""
        if self.class_weights is not None:
            return np.array([row.target_weight for row in self])
        if all("target_weight" in batch.schema.names for batch in self._batches):
            return self._column("target_weight").astype(np.float64)
        return self.num_targets.astype(np.float64)  # shards of before weights

    @cached_property
    def ids(self) -> list[str]:
        """Content hash of each row; duplicates share one."""
        return [content_id for batch in self._batches for content_id in batch.column("id").to_pylist()]

    def token_arrays(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields for each shard its tokens, int32 [T], and the ends of its rows in them, [rows]; without a copy."""
        for view in self._views:
            yield view.input_ids[view.offsets[0] : view.offsets[-1]], view.offsets[1:] - view.offsets[0]

    @cached_property
    def _views(self) -> list["_View"]:
        return [_View(batch) for batch in self._batches]

    def _column(self, name: str) -> np.ndarray:
        parts = [batch.column(name).to_numpy() for batch in self._batches]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)


class _View:
    """Zero-copy numpy views of one record batch."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        ids, trained = batch.column("input_ids"), batch.column("trained")
        self.offsets = ids.offsets.to_numpy()
        self.input_ids = ids.values.to_numpy()
        self.bits = np.frombuffer(trained.values.buffers()[1], dtype=np.uint8)
        self.weights, self.labels, self.borders = (_filled(batch, name) for name in ("weights", "labels", "borders"))

    def row(self, index: int) -> Row:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        bits = np.unpackbits(self.bits[start // 8 : (end + 7) // 8], bitorder="little")
        skip = start % 8
        return Row(
            self.input_ids[start:end],
            bits[skip : skip + end - start].astype(bool),
            weights=_values(self.weights, index),
            labels=_values(self.labels, index),
            borders=_values(self.borders, index),
        )


def _filled(batch: pa.RecordBatch, name: str) -> pa.Array | None:
    """Returns an optional column; None where no row has a value, or the shard is older than the column."""
    column = batch.column(name) if name in batch.schema.names else None
    return column if column is not None and column.null_count < len(column) else None


def _values(column: pa.Array | None, index: int) -> np.ndarray | None:
    values = column[index].values if column is not None else None
    return None if values is None else values.to_numpy()


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.arrow"


def _present(folder: Path, split: str) -> list[Path]:
    """Returns the shards that the manifest names, since a directory listing of a shared filesystem may be stale."""
    try:
        return [folder / name for name in read_json(folder / MANIFEST)["files"].get(split, [])]
    except FileNotFoundError:
        return sorted(folder.glob(f"{split}-*.arrow"))


def _open(path: Path) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _range(count: int) -> str:
    return f"only 0 to {count - 1}" if count else "the split has no rows"
