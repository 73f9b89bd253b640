"""The items of an evaluation: held-out rows with their place and the other columns of their source row.

Prepared shards keep tokens and content ids alone. So the sources of a run's own rows are read again, as far as it
takes; rows of another file are prepared here, by the same pipeline.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from distft.config import Config, ConfigError
from distft.config.errors import did_you_mean, nearest
from distft.data.formats import UnreadFields
from distft.data.key import has_eval_rows
from distft.data.pipeline import MadeRow, Outcome, RowPipeline, make_pipeline
from distft.data.shards import Row, Rows, ShardWriter
from distft.data.stage import fetch_rows
from distft.tasks.labels import Labels

LENGTH, SOURCE = "length", "source"
USUAL = ("label", "language", "lang")  # columns that are sliced by without being requested
_FIRST_BUCKET = 64  # tokens


@dataclass(frozen=True)
class Item:
    """One evaluated row. id: hash of its content, with `-2`, `-3` for further rows of the same content.

    columns: of its source row; empty where that was not found.
    """

    id: str
    source: str
    line: int
    length: int  # tokens
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content_id(self) -> str:
        """The hash alone."""
        return self.id.partition("-")[0]

    @property
    def place(self) -> str:
        """What groups the items of one source row, such as the pieces of a long one."""
        return f"{self.source}:{self.line}" if self.source else self.id


def locate(rows: Rows, config: Config) -> tuple[list[Item], str]:
    """Returns the items of a run's held-out rows, and a note where their sources can no longer be read."""
    waiting: dict[tuple[str, bytes], deque[MadeRow]] = defaultdict(deque)
    note = ""
    try:
        pipeline, _ = make_pipeline(config)
        for made in _made(pipeline, config, set(rows.ids), pipeline.outcome()):
            waiting[made.identity, made.row.input_ids.tobytes()].append(made)
    except (ValueError, OSError, RuntimeError) as error:
        note = f"the rows' sources cannot be read, so places and columns are unknown: {str(error).splitlines()[0]}"
    items = []
    for number, identity in enumerate(rows.ids):
        found = waiting[identity, rows[number].input_ids.tobytes()]
        length = int(rows.lengths[number])
        items.append(_item(found.popleft()) if found else Item(identity, "", 0, length))
    return numbered(items), note


def prepare(config: Config, folder: Path, columns: Sequence[str], labels: Labels | None = None) -> list[Item]:
    """Writes the rows of data.eval as shards into a new folder; returns their items.

    columns: of the rows that slices and clusters read, so that the format need not. labels: of the run. ConfigError
    where no row can be evaluated, or for a class that training did not have.
    """
    folder.mkdir(parents=True)
    writer, items = ShardWriter(folder, "eval"), []
    try:
        fetch_rows(config.data, config.cache_dir, ("eval",))
        pipeline, _ = make_pipeline(config)
        pipeline = replace(pipeline, unread=UnreadFields(elsewhere=frozenset(columns)))
        outcome = pipeline.outcome()
        outcome.classes.names.update({name: number for number, name in enumerate(labels.names if labels else ())})
        for made in _made(pipeline, config, None, outcome):
            writer.add(_marked(made.row, labels), made.identity)
            items.append(_item(made))
        pipeline.unread.refuse()
    except (ValueError, OSError, RuntimeError) as error:
        raise ConfigError([str(error)]) from error
    writer.close()
    if labels and (unknown := outcome.classes.names_in_order[len(labels.names) :]):
        known = f"Allowed: {', '.join(labels.names)}"
        raise ConfigError([f"data.eval: training had no class {name}. {known}" for name in unknown])
    if not items:
        bad = [f"{each.source}:{each.line}: {each.reason}" for each in outcome.left_out[:10]]
        raise ConfigError([f"data.eval={config.data.eval}: has no rows to evaluate", *bad])
    return numbered(items)


def _marked(row: Row, labels: Labels | None) -> Row:
    """Returns the row with a 0 or 1 for each class, where a row may have several; classes unknown to `labels` are left
    out, and refused once all rows are read."""
    if labels is None or labels.problem_type != "multi_label_classification" or row.labels is None:
        return row
    marks = np.isin(np.arange(labels.count), row.labels)
    return replace(row, labels=marks.astype(row.labels.dtype))


def numbered(items: Sequence[Item]) -> list[Item]:
    """Returns the items with an id of its own for each, by their order among those of the same content."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        seen[item.id] += 1
        found.append(item if seen[item.id] == 1 else replace(item, id=f"{item.id}-{seen[item.id]}"))
    return found


def column_values(items: Sequence[Item], name: str) -> list[Any]:
    """Returns the value of a slice for each item: its source's file name, its length bucket, or a column."""
    if name == SOURCE:
        return [Path(item.source).name or None for item in items]
    if name == LENGTH:
        return [bucket(item.length) for item in items]
    return [plain(item.columns.get(name)) for item in items]


def default_slices(items: Sequence[Item]) -> list[str]:
    """Returns what is sliced by where nothing is requested: source, length and the usual columns, if they vary."""
    names = [SOURCE, LENGTH, *(name for name in USUAL if any(name in item.columns for item in items))]
    return [name for name in names if 1 < len(set(column_values(items, name))) <= len(items) / 2]


def wrong_columns(items: Sequence[Item], names: Sequence[str], key: str) -> list[str]:
    """Returns a message for each name that is not a column of any row."""
    columns = list(dict.fromkeys(name for item in items for name in item.columns))
    known = [SOURCE, LENGTH, *columns]
    return [
        f"{key}={name}: no row has this column.{did_you_mean(nearest(name, known))} Allowed: {', '.join(known)}"
        for name in names
        if name not in known
    ]


def bucket(length: int) -> str:
    """Returns the range of powers of two that a number of tokens is in: `65-128`."""
    end = _FIRST_BUCKET
    while end < length:
        end *= 2
    return f"{1 if end == _FIRST_BUCKET else end // 2 + 1}-{end}"


def plain(value: Any) -> Any:
    """Returns a value of a column as slices show it: a text, number, or the joined items of a list."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if value is None or isinstance(value, str | int | float | bool) else type(value).__name__


def _made(pipeline: RowPipeline, config: Config, only: set[str] | None, outcome: Outcome) -> Iterator[MadeRow]:
    stream = "eval" if has_eval_rows(config.data) else "train"
    (opened,) = pipeline.open("eval" if stream == "eval" else "train")
    local = pipeline.of_block(stream, pipeline.unread)
    raw = (row for block in opened.blocks for row in block.rows())
    yield from local.rows(raw, opened.forms, outcome, only)


def _item(made: MadeRow) -> Item:
    columns = made.value if isinstance(made.value, dict) else {}
    return Item(made.identity, made.file, made.line, len(made.row.input_ids), columns)
