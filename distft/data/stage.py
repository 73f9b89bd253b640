"""The way of the data, once per content key: rows -> examples -> text -> tokens -> shards."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from distft.data.choose import Format, Unread, choose_formats, form_of
from distft.data.counts import Report, Split, Stream
from distft.data.example import BadField
from distft.data.key import chat_template, data_dir, hash_of_parts, key_parts, own_eval, pinned, tokenizer_dir
from distft.data.publish import made_once
from distft.data.read import Found, rows_of
from distft.data.render import ChatRenderer, PlainRenderer, Rendered, make_renderer
from distft.data.shards import Row, ShardWriter
from distft.data.sources import find_sources
from distft.data.split import content_id, position
from distft.data.tokenise import Tokeniser
from distft.data.tokenizers import load_tokenizer
from distft.run import read_json, write_json

BATCH = 256
PEEKED = 100
Progress = Callable[[int], None]  # is told the rows read so far
Written = tuple[Report, dict[str, list[str]]]  # the counts, and the files of each split


def silent(rows: int) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Prepared:
    """Data that is ready to be trained on."""

    folder: Path
    report: dict[str, Any]
    reused: bool


@dataclass(frozen=True)
class Opened:
    """Rows of `data.train` or `data.eval` and the formats they may have, the most usual first."""

    key: str
    rows: Iterator[Found]
    forms: list[Format]


@dataclass(frozen=True)
class Maker:
    """Makes token rows out of read rows; the same for training, held-out rows and inspection."""

    renderer: ChatRenderer | PlainRenderer
    tokeniser: Tokeniser
    data: dict[str, Any]
    cache_dir: str
    unread: Unread = field(default_factory=Unread)

    def open(self, *keys: str) -> list[Opened]:
        """Opens `data.train` and `data.eval`; ValueError for what the first rows have and nothing reads, in both."""
        opened = [self._open(key) for key in keys]
        self.unread.refuse()
        return opened

    def rows(
        self, opened: Opened, stream: Stream, log: TextIO, progress: Progress = silent
    ) -> Iterator[tuple[Row, str]]:
        """Yields the usable rows with their content ids; counts and logs the others."""
        for batch in _batches(self._rendered(opened, stream, log)):
            progress(stream.read)
            for (_, identity), made in zip(batch, self.tokeniser([text for text, _ in batch]), strict=True):
                stream.longest = max(stream.longest, made.full_length)
                stream.truncated += made.full_length > len(made.row.input_ids)
                if made.row.trained[1:].any():
                    yield made.row, identity
                else:
                    stream.untrained += 1

    def _rendered(self, opened: Opened, stream: Stream, log: TextIO) -> Iterator[tuple[Rendered, str]]:
        for found in opened.rows:
            stream.read += 1
            if found.value is None:
                stream.add_bad(found, None, log)
                continue
            form = form_of(opened.forms, found.value)
            try:
                example, unread = form.take(found.value)
                rendered = self.renderer(example)
            except BadField as error:
                stream.add_bad(found, error, log)
            else:
                self.unread.add(unread, f"{found.file}:{found.line}", form)
                yield rendered, content_id(example)

    def _open(self, key: str) -> Opened:
        sources = find_sources(f"data.{key}", self.data[key], self.data)
        rows = itertools.chain.from_iterable(rows_of(pinned(source, self.cache_dir)) for source in sources)
        first = list(itertools.islice(rows, PEEKED))
        readable = [found for found in first if found.value is not None]
        if not first:
            raise ValueError(f"data.{key}={self.data[key]} has no rows")
        if not readable:
            raise ValueError(f"data.{key}: none of the first {len(first)} rows can be read. {_place(first[0])}")
        values = [found.value for found in readable if found.value is not None]
        forms = choose_formats(self.data["format"], self.data["fields"], values, self.data["ignore_fields"])
        for found, value in zip(readable, values, strict=True):
            form = form_of(forms, value)
            try:
                self.unread.add(form.take(value)[1], f"{found.file}:{found.line}", form)
            except BadField:
                continue  # counted and told when its turn comes
        return Opened(key, itertools.chain(first, rows), forms)


def prepare_data(values: dict[str, Any], progress: Progress = silent) -> Prepared:
    """Returns the prepared data of a config, made now unless its content key is in the cache already."""
    parts = key_parts(values)
    folder = data_dir(values, hash_of_parts(parts))
    with made_once(folder, "manifest.json") as beside:
        if beside is not None:
            _fill(beside, parts, values, progress)
    return Prepared(folder, read_json(folder / "report.json"), reused=beside is None)


def make_maker(values: dict[str, Any]) -> tuple[Maker, Any]:
    """Returns the Maker of a config and its tokenizer; ValueError where the chat template is refused."""
    data = values["data"]
    tokenizer = load_tokenizer(tokenizer_dir(values), values["model"]["trust_remote_code"])
    renderer = make_renderer(tokenizer, chat_template(data["chat_template"]), data["seed_date"])
    return Maker(renderer, Tokeniser(tokenizer, data["max_length"]), data, values["cache_dir"]), tokenizer


def _fill(folder: Path, parts: dict[str, Any], values: dict[str, Any], progress: Progress) -> None:
    started = time.monotonic()
    data = values["data"]
    maker, tokenizer = make_maker(values)
    if own_eval(data):
        report, files = _write_own_eval(folder, maker, progress)
    else:
        report, files = _write_fraction(folder, maker, float(data["eval"] or 0), progress)
    maker.unread.refuse()
    report.notes = _notes(maker, data)
    report.seconds = round(time.monotonic() - started, 3)
    write_json(folder / "report.json", report.as_dict())
    options = {name: value for name, value in data.items() if name not in ("packing", "shards")}
    ends = sorted(tokenizer.convert_tokens_to_ids(list(maker.renderer.ends)))
    rendering = {"chat_template": maker.renderer.chat_template, "end_token_ids": ends}  # what final/ has to have
    manifest = {"key": hash_of_parts(parts), "parts": parts, "options": options, "rendering": rendering}
    manifest |= {"vocab_size": len(tokenizer), "files": files}
    write_json(folder / "manifest.json", manifest | {"splits": report.as_dict()["splits"]})


def _notes(maker: Maker, data: dict[str, Any]) -> list[str]:
    """Returns what was done to all rows that a user should know."""
    printed = getattr(maker.renderer, "printed", ())
    return [f"the chat template prints the date: {', '.join(sorted(printed))} (data.seed_date)"] if printed else []


def _write_own_eval(folder: Path, maker: Maker, progress: Progress) -> Written:
    """Writes both splits from their own rows; the overlap is counted, and left out of training if data.overlap=drop."""
    report = Report(streams={"train": Stream(), "eval": Stream()}, splits={"train": Split(), "eval": Split()})
    held_out: set[str] = set()
    writers = {name: ShardWriter(folder, name) for name in ("train", "eval")}
    held_out_rows, train_rows = maker.open("eval", "train")
    with (folder / "bad_rows.txt").open("w") as log:
        for row, identity in maker.rows(held_out_rows, report.streams["eval"], log, progress):
            held_out.add(identity)
            _write(row, identity, writers["eval"], report.splits["eval"])
        for row, identity in maker.rows(train_rows, report.streams["train"], log, progress):
            report.streams["train"].overlap += identity in held_out
            if identity not in held_out or maker.data["overlap"] != "drop":
                _write(row, identity, writers["train"], report.splits["train"])
    return report, _closed(writers)


def _write_fraction(folder: Path, maker: Maker, fraction: float, progress: Progress) -> Written:
    """Writes every row to the split that its content decides; where a small fraction catches none, the nearest one."""
    report = Report(streams={"train": Stream()}, splits={"train": Split()} | ({"eval": Split()} if fraction else {}))
    writers = {name: ShardWriter(folder, name) for name in report.splits}
    nearest, farthest = 1.0, 0.0
    (train_rows,) = maker.open("train")
    with (folder / "bad_rows.txt").open("w") as log:
        for row, identity in maker.rows(train_rows, report.streams["train"], log, progress):
            place = position(identity, maker.data["split_seed"])
            nearest, farthest = min(nearest, place), max(farthest, place)
            split = "eval" if place < fraction else "train"
            _write(row, identity, writers[split], report.splits[split])
    files = _closed(writers)
    if fraction and not report.splits["eval"].rows and nearest < farthest:
        return _write_fraction(folder, maker, math.nextafter(nearest, 1), progress)
    return report, files


def _write(row: Row, identity: str, writer: ShardWriter, split: Split) -> None:
    writer.add(row, identity)
    split.add(row)


def _closed(writers: dict[str, ShardWriter]) -> dict[str, list[str]]:
    for writer in writers.values():
        writer.close()
    return {name: writer.files for name, writer in writers.items()}


def _batches(items: Iterable[tuple[Rendered, str]]) -> Iterator[list[tuple[Rendered, str]]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def _place(found: Found) -> str:
    return f"{found.file}:{found.line}: {found.reason}"
