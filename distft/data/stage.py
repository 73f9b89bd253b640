"""Data stage, once per content key: rows -> examples -> text -> tokens -> shards."""

import fcntl
import hashlib
import itertools
import json
import math
import os
import shutil
import socket
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from distft.config import ConfigError
from distft.config.errors import Unavailable
from distft.data.counts import Report, Split, Stream
from distft.data.example import BadField, Example
from distft.data.formats import Format, UnreadFields, choose_formats, form_of
from distft.data.hub import dataset_commit, fetch
from distft.data.key import chat_template, data_dir, has_eval_rows, hash_of_parts, key_parts, pinned, tokenizer_dir
from distft.data.read import RawRow, read_source
from distft.data.render import ChatRenderer, PlainRenderer, Rendered, Training, make_renderer
from distft.data.report import refused
from distft.data.shards import Row, ShardWriter
from distft.data.sources import find_sources
from distft.data.tokenize import RowTokenizer, load_tokenizer
from distft.paths import why_not_writable, without_number
from distft.run import read_json, write_json


@contextmanager
def build_once(folder: Path, complete: str) -> Iterator[Path | None]:
    """Yields an empty folder to fill, which is renamed to `folder` at the end; None when `folder` exists already.

    complete: the name of the file that marks a finished folder. Processes of one machine wait for each other; on
    filesystems whose locks do not reach other machines several may build it, and the first rename wins.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        _wait(lock.fileno())
        if (folder / complete).is_file():
            yield None
            return
        mine = f".{folder.name}.{socket.gethostname()}."
        for left_over in folder.parent.glob(f"{mine}*"):  # of a killed process; this process holds the machine's lock
            shutil.rmtree(left_over, ignore_errors=True)
        partial = folder.parent / f"{mine}{os.getpid()}"
        partial.mkdir()
        try:
            yield partial
            _rename(partial, folder, complete)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _wait(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a filesystem without locks: the rename alone decides
        return


def _rename(partial: Path, folder: Path, complete: str) -> None:
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / complete).is_file():
            raise


def content_id(example: Example) -> str:
    """Returns a hash of the roles and the text, normalized in case, spacing and Unicode form."""
    segments = (*example.segments, *example.rejected)
    parts = [f"{segment.role}\x1e{_normalized(segment.written or segment.text)}" for segment in segments]
    more = [segment.fields for segment in segments] + [{"tools": example.tools}]
    if any(fields for fields in more[:-1]) or example.tools:
        parts.append(_normalized(json.dumps(more, sort_keys=True, ensure_ascii=False)))
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def split_position(identity: str, seed: int) -> float:
    """Returns a number in [0, 1) that assigns a row to a split: uniform over contents, different for each seed."""
    digest = hashlib.blake2b(f"{seed}:{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


BATCH = 256
DETECTION_ROWS = 100  # read to detect the format
Progress = Callable[[int], None]  # called with the number of rows read so far
Written = tuple[Report, dict[str, list[str]]]  # the counts, and the files of each split


def no_progress(rows: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data, and its report.json."""

    folder: Path
    report: dict[str, Any]
    reused: bool


@dataclass(frozen=True)
class OpenSource:
    """Rows of `data.train` or `data.eval`, and their possible formats, the most common first."""

    key: str
    rows: Iterator[RawRow]
    forms: list[Format]


@dataclass(frozen=True)
class RowPipeline:
    """Turns raw rows into token rows; the same code for training rows, held-out rows and inspection."""

    renderer: ChatRenderer | PlainRenderer
    row_tokenizer: RowTokenizer
    data: dict[str, Any]
    cache_dir: str
    unread: UnreadFields = field(default_factory=UnreadFields)

    def open(self, *keys: str) -> list[OpenSource]:
        """Opens the sources of `keys`; raises ValueError for all fields of their first rows that no format reads."""
        opened = [self._open(key) for key in keys]
        self.unread.refuse()
        return opened

    def rows(
        self, opened: OpenSource, stream: Stream, log: TextIO, progress: Progress = no_progress
    ) -> Iterator[tuple[Row, str]]:
        """Yields the valid rows with their content ids; counts and logs the others."""
        for batch in _batches(self._rendered(opened, stream, log)):
            progress(stream.read)
            for (_, identity), made in zip(batch, self.row_tokenizer([text for text, _ in batch]), strict=True):
                stream.longest = max(stream.longest, made.full_length)
                stream.truncated += made.full_length > len(made.row.input_ids)
                if made.row.trained[1:].any():
                    yield made.row, identity
                else:
                    stream.untrained += 1

    def _rendered(self, opened: OpenSource, stream: Stream, log: TextIO) -> Iterator[tuple[Rendered, str]]:
        for found in opened.rows:
            stream.read += 1
            if found.value is None:
                stream.add_bad(found, None, log)
                continue
            form = form_of(opened.forms, found.value)
            try:
                example, unread = form.take(found.value)
                rendered = self.renderer.rows(example)
            except BadField as error:
                stream.add_bad(found, error, log)
            else:
                self._note_unread(found, form, example, unread)
                yield from ((text, content_id(example)) for text in rendered)

    def _note_unread(self, found: RawRow, form: Format, example: Example, unread: list[str]) -> None:
        """Notes the fields that the format does not read, and the keys that the chat template does not."""
        place = f"{found.file}:{found.line}"
        self.unread.add(unread, place, form)
        if keys := self.renderer.unread(example):
            self.unread.add_unrendered(keys, place, form, self.renderer.keys)

    def _open(self, key: str) -> OpenSource:
        sources = find_sources(f"data.{key}", self.data[key], self.data)
        rows = itertools.chain.from_iterable(read_source(pinned(source, self.cache_dir)) for source in sources)
        first = list(itertools.islice(rows, DETECTION_ROWS))
        readable = [found for found in first if found.value is not None]
        if not first:
            raise ValueError(f"data.{key}={self.data[key]} has no rows")
        if not readable:
            raise ValueError(f"data.{key}: none of the first {len(first)} rows can be read. {_location(first[0])}")
        values = [found.value for found in readable if found.value is not None]
        forms = choose_formats(self.data["format"], self.data["fields"], values, self.data["ignore_fields"])
        for found, value in zip(readable, values, strict=True):
            form = form_of(forms, value)
            try:
                example, unread = form.take(value)
                self._note_unread(found, form, example, unread)
            except BadField:
                continue  # counted and reported when `rows` reaches it
        return OpenSource(key, itertools.chain(first, rows), forms)


def prepare_data(values: dict[str, Any], progress: Progress = no_progress) -> Prepared:
    """Returns the prepared data of a config, built unless its content key is in the cache."""
    parts = key_parts(values)
    folder = data_dir(values, hash_of_parts(parts))
    with build_once(folder, "manifest.json") as partial:
        if partial is not None:
            _fill(partial, parts, values, progress)
    return Prepared(folder, read_json(folder / "report.json"), reused=partial is None)


def make_pipeline(values: dict[str, Any]) -> tuple[RowPipeline, Any]:
    """Returns the RowPipeline of a config and its tokenizer; raises ValueError for an unsupported chat template."""
    data = values["data"]
    tokenizer = load_tokenizer(tokenizer_dir(values), values["model"]["trust_remote_code"])
    training = Training(data["train_on"], data["train_reasoning"])
    renderer = make_renderer(tokenizer, chat_template(data["chat_template"]), data["seed_date"], training)
    return RowPipeline(renderer, RowTokenizer(tokenizer, data["max_length"]), data, values["cache_dir"]), tokenizer


def _fill(folder: Path, parts: dict[str, Any], values: dict[str, Any], progress: Progress) -> None:
    started = time.monotonic()
    data = values["data"]
    pipeline, tokenizer = make_pipeline(values)
    if has_eval_rows(data):
        report, files = _write_own_eval(folder, pipeline, progress)
    else:
        report, files = _write_fraction(folder, pipeline, float(data["eval"] or 0), progress)
    pipeline.unread.refuse()
    pipeline.unread.check_renamed(data["fields"])
    report.notes = _notes(pipeline, data)
    report.seconds = round(time.monotonic() - started, 3)
    write_json(folder / "report.json", report.as_dict())
    options = {name: value for name, value in data.items() if name not in ("packing", "shards")}
    ends = sorted(tokenizer.convert_tokens_to_ids(list(pipeline.renderer.ends)))
    rendering = {"chat_template": pipeline.renderer.chat_template, "end_token_ids": ends}  # needed for final/
    manifest = {"key": hash_of_parts(parts), "parts": parts, "options": options, "rendering": rendering}
    manifest |= {"vocab_size": len(tokenizer), "files": files}
    write_json(folder / "manifest.json", manifest | {"splits": report.as_dict()["splits"]})


def _notes(pipeline: RowPipeline, data: dict[str, Any]) -> list[str]:
    """Returns remarks for the user that apply to all rows."""
    notes = [
        f"data.ignore_fields: no row has {name}" for name in data["ignore_fields"] if name not in pipeline.unread.seen
    ]
    if pipeline.renderer.date:
        notes.append(f"the chat template prints the current date: data.seed_date={data['seed_date']} is used instead")
    return notes


def _write_own_eval(folder: Path, pipeline: RowPipeline, progress: Progress) -> Written:
    """Writes both splits from their own sources; counts duplicates, and skips them if data.overlap=drop."""
    report = Report(streams={"train": Stream(), "eval": Stream()}, splits={"train": Split(), "eval": Split()})
    held_out: set[str] = set()
    writers = {name: ShardWriter(folder, name) for name in ("train", "eval")}
    held_out_rows, train_rows = pipeline.open("eval", "train")
    with (folder / "bad_rows.txt").open("w") as log:
        for row, identity in pipeline.rows(held_out_rows, report.streams["eval"], log, progress):
            held_out.add(identity)
            _write(row, identity, writers["eval"], report.splits["eval"])
        for row, identity in pipeline.rows(train_rows, report.streams["train"], log, progress):
            report.streams["train"].overlap += identity in held_out
            if identity not in held_out or pipeline.data["overlap"] != "drop":
                _write(row, identity, writers["train"], report.splits["train"])
    return report, _closed(writers)


def _write_fraction(folder: Path, pipeline: RowPipeline, fraction: float, progress: Progress) -> Written:
    """Writes each row to the split that its content hash selects; if that leaves eval empty, holds out the nearest."""
    report = Report(streams={"train": Stream()}, splits={"train": Split()} | ({"eval": Split()} if fraction else {}))
    writers = {name: ShardWriter(folder, name) for name in report.splits}
    smallest, largest = 1.0, 0.0
    (train_rows,) = pipeline.open("train")
    with (folder / "bad_rows.txt").open("w") as log:
        for row, identity in pipeline.rows(train_rows, report.streams["train"], log, progress):
            place = split_position(identity, pipeline.data["split_seed"])
            smallest, largest = min(smallest, place), max(largest, place)
            split = "eval" if place < fraction else "train"
            _write(row, identity, writers[split], report.splits[split])
    files = _closed(writers)
    if fraction and not report.splits["eval"].rows and smallest < largest:
        return _write_fraction(folder, pipeline, math.nextafter(smallest, 1), progress)
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


def _location(found: RawRow) -> str:
    return f"{found.file}:{found.line}: {found.reason}"


def ensure_prepared(
    values: dict[str, Any], progress: Progress = no_progress, check_model: Callable[[], None] = lambda: None
) -> Prepared:
    """Returns the prepared data of a config, after fetching what is remote.

    check_model: called after the model is fetched and before rows are read.
    Raises ConfigError for invalid rows, tokenizer or hub ids, or an exceeded threshold; Unavailable where a later try
    may succeed.
    """
    if why := why_not_writable(Path(values["cache_dir"])):
        raise ConfigError([f"cache_dir={values['cache_dir']}: {why}. Try: cache_dir= a folder of yours"])
    try:
        fetch_from_hub(values)
        check_model()
        prepared = prepare_data(values, progress)
    except Unavailable:  # not an error of the config
        raise
    except OSError as error:
        raise ConfigError([without_number(error)]) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError([str(error)]) from error
    if reasons := refused(prepared.report, values["data"]):
        raise ConfigError([*reasons, *_bad_rows(prepared)])
    return prepared


def fetch_from_hub(values: dict[str, Any]) -> None:
    """Fetches the hub ids of a config at pinned commits; raises RuntimeError on failure."""
    model, data, cache_dir = values["model"], values["data"], values["cache_dir"]
    if not model["tiny"]:
        fetch(model["path"], model["revision"], cache_dir)
    if model["tokenizer"]:
        fetch(model["tokenizer"], None, cache_dir, weights=False)
    for key in ("train", "eval") if has_eval_rows(data) else ("train",):
        for source in find_sources(f"data.{key}", data[key], data):
            if source.hub_id:
                dataset_commit(source.hub_id, source.revision, cache_dir, ask=True)


def _bad_rows(prepared: Prepared) -> list[str]:
    """Returns the first malformed rows, and the path of the full list."""
    streams = prepared.report["streams"].values()
    first = [line for stream in streams for line in stream["first_bad"]]
    more = sum(stream["bad"] for stream in streams) - len(first)
    return first + ([f"and {more} more, all in {prepared.folder / 'bad_rows.txt'}"] if more else [])
