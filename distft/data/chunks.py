"""Chunks: the finished blocks of a data stage, one file each, from which the shards are assembled in order.

A chunk is an Arrow file of token rows in the columns of the shards, with the place each row was read at and its
position for the split; its metadata has the counts of the block. It is written under a temporary name and renamed, so
a chunk that exists is complete.
"""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from distft.data.blocks import Block
from distft.data.cleaning.tags import write_rows, write_tags
from distft.data.formats import Format, Unread, UnreadFields
from distft.data.pipeline import RowPipeline, split_position
from distft.data.shards import SCHEMA, batch_of
from distft.data.statistics import Statistics, licences_of

PLACE = (
    pa.field("file", pa.int32()),  # number in the chunk's list of files
    pa.field("line", pa.int64()),
    pa.field("position", pa.float64()),  # in [0, 1), decides the split
)
CHUNK_SCHEMA = pa.schema([*SCHEMA, *PLACE])
COUNTS = b"counts"
Counts = dict[str, Any]  # JSON: stream, log, left_out, statistics, unread, rendered, seen, ends, files, item, labels


class LabelSetter(Protocol):
    """Turns a chunk's labels into those of all rows: see distft.data.labels.LabelTable."""

    def apply(self, rows: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch: ...


@dataclass(frozen=True)
class Chunk:
    """One finished block."""

    path: Path
    labels: LabelSetter | None = None  # puts final labels in place, once all chunks are known

    @property
    def batch(self) -> pa.RecordBatch:
        """The rows, memory-mapped; opened each time, so that not all chunks of a large data set are mapped at once."""
        with pa.ipc.open_file(pa.memory_map(str(self.path))) as file:
            return file.get_batch(0)

    @cached_property
    def counts(self) -> Counts:
        with pa.ipc.open_file(pa.memory_map(str(self.path))) as file:
            return json.loads(file.schema.metadata[COUNTS])

    @property
    def rows(self) -> pa.RecordBatch:
        """The rows in the columns of the shards."""
        rows = self.batch.select(SCHEMA.names)
        return rows if self.labels is None else self.labels.apply(rows, self.counts["labels"]["names"])

    @property
    def positions(self) -> np.ndarray:
        """The position of each row for the split, float64 [rows]."""
        return self.batch.column("position").to_numpy()

    @property
    def places(self) -> list[tuple[str, int]]:
        """File and line of each row."""
        files = self.counts["files"]
        numbers, lines = self.batch.column("file").to_pylist(), self.batch.column("line").to_pylist()
        return [(files[number], line) for number, line in zip(numbers, lines, strict=True)]

    def add_unread(self, unread: UnreadFields, forms: Sequence[Format]) -> None:
        """Adds the block's fields that no format reads, and all that its rows had."""
        by_name = {form.name: form for form in forms}
        for key, (path, place, form, hint) in self.counts["unread"]:
            unread.places.setdefault((key[0], key[1]), Unread(path, place, by_name[form], hint))
        unread.rendered.update((role, key) for role, key in self.counts["rendered"])
        unread.seen.update(self.counts["seen"])


def chunk_path(folder: Path, stream: str, index: int) -> Path:
    return folder / f"{stream}-{index:07d}.arrow"


def write_chunk(pipeline: RowPipeline, forms: list[Format], stream: str, block: Block, path: Path) -> Chunk:
    """Makes the rows of a block of a stream and writes its chunk."""
    unread, log, statistics = UnreadFields(), io.StringIO(), Statistics()
    local, outcome = pipeline.of_block(stream, unread), pipeline.outcome(log)
    made = list(local.rows(block.rows(), forms, outcome))
    for each in made:
        statistics.add(each.full_length, each.answer, each.file, each.line)
    statistics.licences.update(licences_of(each.value for each in made))
    if local.cleaner:
        looked = [each.looked for each in made if each.looked]
        write_tags(path, local.cleaner.tag(looked, outcome.seconds))
    if local.cleaner or (stream == "train" and pipeline.data.overlap == "drop"):  # rows that may be left out later
        write_rows(path, [each.value for each in made])
    files = {name: number for number, name in enumerate(dict.fromkeys(each.file for each in made))}
    seed = pipeline.data.split_seed
    columns = [
        *batch_of([(each.row, each.identity) for each in made]).columns,
        pa.array(np.array([files[each.file] for each in made], dtype=np.int32)),
        pa.array(np.array([each.line for each in made], dtype=np.int64)),
        pa.array(np.array([split_position(each.identity, seed) for each in made], dtype=np.float64)),
    ]
    counts = {
        "stream": asdict(outcome.stream),
        "log": log.getvalue(),
        "left_out": [each.as_json() for each in outcome.left_out],
        "statistics": statistics.as_json(),
        "unread": [(key, (*at[:2], at.form.name, at.hint)) for key, at in unread.places.items()],
        "rendered": sorted(pipeline.renderer.read),
        "seen": sorted(unread.seen),
        "ends": sorted(pipeline.renderer.ends),
        "files": list(files),
        "item": block.item,
        "labels": {"names": outcome.classes.names_in_order, "has_lists": outcome.classes.has_lists},
    }
    schema = CHUNK_SCHEMA.with_metadata({COUNTS: json.dumps(counts).encode()})
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        os.fsync(sink.fileno())
    partial.rename(path)
    return Chunk(path)
