"""Row pipeline: raw rows -> examples -> text -> tokens; the same code for training rows, held-out rows and inspection.

Trap: it travels to the processes of the data stage by multiprocessing, so everything in it must be picklable.
"""

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from distft.data.blocks import Block, blocks_of
from distft.data.counts import Stream
from distft.data.example import BadField, Example
from distft.data.formats import Format, UnreadFields, choose_formats, form_of
from distft.data.key import chat_template, pinned, tokenizer_dir
from distft.data.raw import RawRow
from distft.data.read import source_parts
from distft.data.render import ChatRenderer, PlainRenderer, Rendered, Training, make_renderer
from distft.data.shards import Row
from distft.data.sources import find_sources
from distft.data.tokenize import RowTokenizer, load_tokenizer

BATCH = 256  # rows that are tokenized together
DETECTION_ROWS = 100  # read to detect the format


def content_id(example: Example) -> str:
    """Returns a hash of the roles and the text, normalized in case, spacing and Unicode form."""
    segments = (*example.segments, *example.rejected)
    parts = [f"{segment.role}\x1e{_normalized(segment.written or segment.text)}" for segment in segments]
    more = [segment.fields for segment in segments]
    if any(more) or example.tools:
        parts.append(_normalized(json.dumps([*more, example.tools], sort_keys=True, ensure_ascii=False)))
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def split_position(identity: str, seed: int) -> float:
    """Returns a number in [0, 1) that assigns a row to a split: uniform over contents, different for each seed."""
    digest = hashlib.blake2b(f"{seed}:{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class OpenSource:
    """Rows of `data.train` or `data.eval` in blocks, and their possible formats, the most common first."""

    key: str
    blocks: Iterator[Block]
    forms: list[Format]


@dataclass(frozen=True)
class MadeRow:
    """A row's tokens, the hash of its content, and where it was read."""

    row: Row
    identity: str
    file: str
    line: int


@dataclass(frozen=True)
class RowPipeline:
    """Turns raw rows into token rows."""

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

    def with_unread(self, unread: UnreadFields) -> "RowPipeline":
        """Returns the pipeline with another list of unread fields."""
        return replace(self, unread=unread)

    def rows(self, found: Iterable[RawRow], forms: list[Format], stream: Stream, log: TextIO) -> Iterator[MadeRow]:
        """Yields the valid rows; counts and logs the others."""
        for batch in _batches(self._rendered(found, forms, stream, log)):
            tokenized = self.row_tokenizer([rendered for rendered, _, _ in batch])
            for (_, identity, raw), made in zip(batch, tokenized, strict=True):
                stream.longest = max(stream.longest, made.full_length)
                stream.truncated += made.full_length > len(made.row.input_ids)
                if made.row.trained[1:].any():
                    yield MadeRow(made.row, identity, raw.file, raw.line)
                else:
                    stream.untrained += 1

    def _rendered(
        self, found: Iterable[RawRow], forms: list[Format], stream: Stream, log: TextIO
    ) -> Iterator[tuple[Rendered, str, RawRow]]:
        for raw in found:
            stream.read += 1
            if raw.value is None:
                stream.add_bad(raw, None, log)
                continue
            form = form_of(forms, raw.value)
            try:
                example, unread = form.take(raw.value)
                rendered = self.renderer.rows(example)
            except BadField as error:
                stream.add_bad(raw, error, log)
            else:
                self._note_unread(raw, form, example, unread)
                identity = content_id(example)
                yield from ((text, identity, raw) for text in rendered)

    def _note_unread(self, raw: RawRow, form: Format, example: Example, unread: list[str]) -> None:
        """Notes the fields that the format does not read, and the keys that the chat template does not."""
        place = f"{raw.file}:{raw.line}"
        self.unread.add(unread, place, form)
        if keys := self.renderer.unread(example):
            self.unread.add_unrendered(keys, place, form, self.renderer.keys)
        self.unread.rendered |= self.renderer.read

    def _open(self, key: str) -> OpenSource:
        sources = find_sources(f"data.{key}", self.data[key], self.data)
        parts = itertools.chain.from_iterable(source_parts(pinned(source, self.cache_dir)) for source in sources)
        blocks = blocks_of(parts)
        ahead, first = [], []
        for block in blocks:
            ahead.append(block)
            first.extend(itertools.islice(block.rows(), DETECTION_ROWS - len(first)))
            if len(first) >= DETECTION_ROWS:
                break
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
        return OpenSource(key, itertools.chain(ahead, blocks), forms)


def make_pipeline(values: dict[str, Any]) -> tuple[RowPipeline, Any]:
    """Returns the RowPipeline of a config and its tokenizer; raises ValueError for an unsupported chat template."""
    data = values["data"]
    tokenizer = load_tokenizer(tokenizer_dir(values), values["model"]["trust_remote_code"])
    training = Training(data["train_on"], data["train_reasoning"])
    renderer = make_renderer(tokenizer, chat_template(data["chat_template"]), data["seed_date"], training)
    return RowPipeline(renderer, RowTokenizer(tokenizer, data["max_length"]), data, values["cache_dir"]), tokenizer


def _batches(items: Iterable[tuple[Rendered, str, RawRow]]) -> Iterator[list[tuple[Rendered, str, RawRow]]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def _location(found: RawRow) -> str:
    return f"{found.file}:{found.line}: {found.reason}"
