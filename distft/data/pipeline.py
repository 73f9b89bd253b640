"""Row pipeline: raw rows -> examples -> text -> tokens; the same code for training rows, held-out rows and inspection.

Trap: it travels to the processes of the data stage by multiprocessing, so everything in it must be picklable.
"""

import hashlib
import io
import itertools
import json
import unicodedata
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TextIO

from distft.config.data import Data
from distft.config.schema import Config
from distft.data.blocks import Block, blocks_of
from distft.data.cleaning.engine import Cleaner, Looked, make_cleaner
from distft.data.counts import MALFORMED, TOO_LONG, UNTRAINED, LeftOut, Stream
from distft.data.example import BadField, Example, RawJson, without_turns
from distft.data.formats import Format, UnreadFields, choose_formats, form_of
from distft.data.key import chat_template, pinned, template_text, tokenizer_dir
from distft.data.labels import ChunkLabels, LabelledRenderer, LabelledTokenizer
from distft.data.pairs import Group, cut_answers, render_group, why_unusable, without_oldest
from distft.data.prompt_template import PromptTemplate
from distft.data.raw import RawRow
from distft.data.read import source_parts
from distft.data.render import ChatRenderer, PlainRenderer, Rendered, Training, make_renderer
from distft.data.shards import Row
from distft.data.sources import find_sources
from distft.data.tokenize import RowTokenizer, TokenizedRow, load_tokenizer
from distft.tasks import Task, load_task
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.tasks.preference import formats_of

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
    if text.isascii():
        return " ".join(text.lower().split())  # the same, twice as fast
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
    full_length: int  # tokens before truncation
    answer: str
    value: Any = None  # the row as read
    looked: Looked | None = None  # where it is cleaned


@dataclass(frozen=True)
class RenderedRow:
    """The texts of a row's documents, before tokenization."""

    documents: tuple[Rendered, ...]
    identity: str
    raw: RawRow
    answer: str
    looked: Looked | None
    example: Example
    group: Group | None = None  # of a task whose rows are groups of documents


@dataclass
class Outcome:
    """What a block's rows gave, apart from those that can be trained on."""

    stream: Stream = field(default_factory=Stream)
    log: TextIO = field(default_factory=io.StringIO)  # lines of bad_rows.txt
    left_out: list[LeftOut] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # by cleaning rule
    classes: ChunkLabels = field(default_factory=lambda: ChunkLabels("none"))

    def add_bad(self, raw: RawRow, error: BadField | None) -> None:
        self.stream.add_bad(raw, error, self.log)
        self.leave_out(raw, MALFORMED, str(error or raw.reason))

    def leave_out(self, raw: RawRow, rule: str, reason: str) -> None:
        self.left_out.append(LeftOut(raw.file, raw.line, rule, reason, raw.value))


@dataclass(frozen=True)
class RowPipeline:
    """Turns raw rows into token rows."""

    renderer: ChatRenderer | PlainRenderer | LabelledRenderer
    row_tokenizer: RowTokenizer | LabelledTokenizer
    data: Data
    cache_dir: str
    unread: UnreadFields = field(default_factory=UnreadFields)
    cleaner: Cleaner | None = None  # of the training rows
    prompt_template: PromptTemplate | None = None
    task: Task = CAUSAL_LM

    def outcome(self, log: TextIO | None = None) -> Outcome:
        """Returns an empty outcome for `rows`."""
        return Outcome(log=log or io.StringIO(), classes=ChunkLabels(self.task.labels))

    def open(self, *keys: Literal["train", "eval"]) -> list[OpenSource]:
        """Opens the sources of `keys`; raises ValueError for all fields of their first rows that no format reads."""
        opened = [self._open(key) for key in keys]
        self.unread.refuse()
        return opened

    def of_block(self, stream: str, unread: UnreadFields) -> "RowPipeline":
        """Returns the pipeline for a block of a stream, with a list of unread fields of its own."""
        return replace(self, unread=unread, cleaner=self.cleaner if stream == "train" else None)

    def rows(
        self, found: Iterable[RawRow], forms: list[Format], outcome: Outcome, only: Container[str] | None = None
    ) -> Iterator[MadeRow]:
        """Yields the valid rows; counts and logs the others. only: tokenizes rows with these content ids alone."""
        stream, number = outcome.stream, outcome.classes.number
        rendered = self._rendered(found, forms, outcome)
        for batch in _batches(each for each in rendered if only is None or each.identity in only):
            tokenized = iter(self.row_tokenizer([text for each in batch for text in each.documents]))
            for each in batch:
                documents = list(itertools.islice(tokenized, len(each.documents)))
                for made, text in zip(documents, each.documents, strict=True):
                    stream.count_tokens(made.full_length, len(text.text))
                longest = max(made.full_length for made in documents)
                if each.group is not None:
                    for row in self._fitted_group(documents, each.group, each.raw, outcome):
                        place = (each.raw.file, each.raw.line, longest)
                        yield MadeRow(row, each.identity, *place, each.answer, each.raw.value, each.looked)
                    continue
                kept = self._fitted(documents[0], each.raw, outcome)
                words = documents[0].words
                kept = [number(row, each.example.label, each.example.weight, words) for row in kept]
                trained = [row for row in kept if row.num_targets]
                if kept and not trained:
                    stream.untrained += 1
                    reason = f"no token to train on within {self.data.max_length} tokens"
                    outcome.leave_out(each.raw, UNTRAINED, reason)
                for row in trained:
                    place = (each.raw.file, each.raw.line, longest)
                    yield MadeRow(row, each.identity, *place, each.answer, each.raw.value, each.looked)

    def _fitted_group(self, documents: list[TokenizedRow], group: Group, raw: RawRow, outcome: Outcome) -> list[Row]:
        """Returns the row of a group whose documents have at most data.max_length tokens each; none where no answer is
        left, or both are the same."""
        longest = max(made.full_length for made in documents)
        if longest > self.data.max_length:
            if self.data.truncate == "drop":
                return self._too_long(longest, raw, outcome)
            outcome.stream.truncated += 1
        assert isinstance(self.row_tokenizer, RowTokenizer)
        rows = cut_answers([made.row for made in documents], self.data.max_length, self.row_tokenizer.bos)
        if reason := why_unusable(rows, self.data.max_length):
            outcome.stream.untrained += 1
            outcome.leave_out(raw, UNTRAINED, reason)
            return []
        return [group.join(rows)]

    def _too_long(self, length: int, raw: RawRow, outcome: Outcome) -> list[Row]:
        """Leaves a row out; returns no rows."""
        outcome.stream.too_long += 1
        outcome.leave_out(raw, TOO_LONG, f"{length} tokens, more than data.max_length={self.data.max_length}")
        return []

    def _fitted(self, made: TokenizedRow, raw: RawRow, outcome: Outcome) -> list[Row]:
        """Returns a row in at most data.max_length tokens, as data.truncate says; counts what does not fit."""
        if made.full_length <= self.data.max_length:
            return [made.row]
        if self.data.truncate == "drop":
            return self._too_long(made.full_length, raw, outcome)
        if self.data.truncate == "split":
            outcome.stream.split += 1
            return made.row.pieces(self.data.max_length)
        outcome.stream.truncated += 1
        if isinstance(self.row_tokenizer, LabelledTokenizer):
            return [self.row_tokenizer.cut(made.row, self.data.max_length)]
        return made.row.pieces(self.data.max_length)[:1]

    def _render(self, example: Example) -> list[Group]:
        """Returns the texts of an example: of a pair both sides together, else each text alone."""
        if self.task.unit == "pair":
            return [render_group(example, self.renderer.rows)]
        return [Group((text,)) for text in self.renderer.rows(example)]

    def _shortened(self, example: Example, outcome: Outcome) -> tuple[list[Group], Example]:
        """Returns the texts of a conversation without its oldest turns, as many as it takes to fit."""
        fewer_turns = without_oldest if self.task.unit == "pair" else without_turns
        rendered, shorter, count = self._render(example), example, 0
        while self._longest(rendered) > self.data.max_length:
            count += 1
            if (fewer := fewer_turns(example, count)) is None:
                break
            rendered, shorter = self._render(fewer), fewer
        outcome.stream.shortened += shorter is not example
        return rendered, shorter

    def _longest(self, groups: list[Group]) -> int:
        """Returns the tokens of the longest document."""
        texts = [text for group in groups for text in group.documents]
        return max(made.full_length for made in self.row_tokenizer(texts))

    def _rendered(self, found: Iterable[RawRow], forms: list[Format], outcome: Outcome) -> Iterator[RenderedRow]:
        for raw in found:
            outcome.stream.read += 1
            if raw.value is None:
                outcome.add_bad(raw, None)
                continue
            try:
                value = self.prompt_template(raw.value) if self.prompt_template else raw.value
                form = form_of(forms, value)
                if not self._takes(form):
                    raise BadField(form.name, self._wanted(form))
                example, unread = form.take(value)
                looked = self.cleaner.look(raw, example, outcome.seconds) if self.cleaner else None
                example = looked.example if looked else example
                if self.data.truncate == "drop_turns":
                    rendered, example = self._shortened(example, outcome)
                else:
                    rendered = self._render(example)
            except BadField as error:
                outcome.add_bad(raw, error)
            else:
                self._note_unread(raw, form, example, unread)
                identity, answer = content_id(example), last_answer(example)
                is_grouped = self.task.unit == "pair"
                for group in rendered:
                    yield RenderedRow(
                        group.documents, identity, raw, answer, looked, example, group if is_grouped else None
                    )

    def _note_unread(self, raw: RawRow, form: Format, example: Example, unread: list[str]) -> None:
        """Notes the fields that the format does not read, and the keys that the chat template does not."""
        place = f"{raw.file}:{raw.line}"
        self.unread.add(unread, place, form)
        if keys := self.renderer.unread(example):
            self.unread.add_unrendered(keys, place, form, self.renderer.keys)
        self.unread.rendered |= self.renderer.read

    def _open(self, key: Literal["train", "eval"]) -> OpenSource:
        sources = find_sources(key, self.data, self.cache_dir)
        blocks = blocks_of((source.item, source_parts(pinned(source, self.cache_dir))) for source in sources)
        ahead, first = [], []
        for block in blocks:
            ahead.append(block)
            first.extend(itertools.islice(block.rows(), DETECTION_ROWS - len(first)))
            if len(first) >= DETECTION_ROWS:
                break
        readable = [found for found in first if found.value is not None]
        if not first:
            raise ValueError(f"data.{key}={getattr(self.data, key)} has no rows")
        if not readable:
            raise ValueError(f"data.{key}: none of the first {len(first)} rows can be read. {_location(first[0])}")
        readable = [replace(found, value=value) for found in readable if (value := self._shaped(found)) is not None]
        values = [found.value for found in readable if found.value is not None]
        forms = choose_formats(self.data.format, self.data.fields, values, self.data.ignore_fields, self.task.formats)
        self._check_task(key, forms[0])
        for found, value in zip(readable, values, strict=True):
            form = form_of(forms, value)
            try:
                example, unread = form.take(value)
                self._note_unread(found, form, example, unread)
            except BadField:
                continue  # counted and reported when `rows` reaches it
        return OpenSource(key, itertools.chain(ahead, blocks), forms)

    def example_of(self, value: RawJson, forms: list[Format]) -> Example:
        """Returns the example of a row as read that is known to be well-formed."""
        shaped = self.prompt_template(value) if self.prompt_template else value
        return form_of(forms, shaped).take(shaped)[0]

    def _shaped(self, found: RawRow) -> RawJson | None:
        """Returns a row as the format gets it; of a row without a column of data.prompt_template, the row itself."""
        if self.prompt_template is None or found.value is None:
            return found.value
        try:
            return self.prompt_template(found.value)
        except BadField:  # counted and reported when `rows` reaches it
            return found.value

    def _takes(self, form: Format) -> bool:
        """Returns whether the task, and of pairs the loss, is for rows of a format."""
        return self.task.name in form.tasks and (self.task.unit != "pair" or form.name in self.task.formats)

    def _wanted(self, form: Format) -> str:
        """Returns why the task does not take the rows of a format."""
        if self.task.name not in form.tasks:
            return f"are for model.task={form.tasks[0]}, and this is {self.task.name}"
        if form.name == "kto":
            return "are single answers with a label, and the loss compares pairs. Try: loss=kto"
        return "are pairs, and loss=kto is for single answers with a label. Try: loss=dpo"

    def _check_task(self, key: str, form: Format) -> None:
        """Raises ValueError where rows are for another task than the model is trained for."""
        if self._takes(form):
            return
        names = [form.names[name] for name in form.fields]
        way_out = (
            f"'data.fields={{completion: {names[0]}}}' and 'data.ignore_fields=[{names[-1]}]' for its answer alone"
        )
        if "text" in form.fields:
            way_out = f"data.format=text 'data.ignore_fields=[{names[-1]}]' to train on the texts"
        elif form.name == "kto":
            way_out = f"data.format=prompt_completion 'data.ignore_fields=[{names[-1]}]' to train on every answer"
        if self.task.unit == "pair":
            raise ValueError(f"data.{key}: rows of format {form.name} ({', '.join(names)}) {self._wanted(form)}")
        said = f"data.{key}: rows of format {form.name} ({', '.join(names)}) are for model.task={form.tasks[0]}, and "
        if self.task.labels != "none":
            wanted = " or ".join(self.task.formats)
            raise ValueError(
                f"{said}model.task={self.task.name} needs those of {wanted}. Try: model.task={form.tasks[0]}"
            )
        way_out += f", or model.task={form.tasks[0]}"
        raise ValueError(f"{said}model.task={self.task.name} would train on text alone. Try: {way_out}")


def make_pipeline(config: Config) -> tuple[RowPipeline, Any]:
    """Returns the RowPipeline of a config and its tokenizer; raises ValueError for an unsupported chat template."""
    data, field_of_groups = config.data, config.clean.groups.field
    if field_of_groups is not None:  # no format reads it
        data = data.model_copy(update={"ignore_fields": [*data.ignore_fields, field_of_groups]})
    tokenizer = load_tokenizer(tokenizer_dir(config), config.model.trust_remote_code)
    training = Training(data.train_on, data.train_reasoning)
    task = load_task(config.model.task)
    if task.name == "preference":
        task = replace(task, formats=formats_of(config.loss.target))
    renderer: ChatRenderer | PlainRenderer | LabelledRenderer
    if task.labels == "none":
        renderer = make_renderer(tokenizer, chat_template(data.chat_template), data.seed_date, training)
    else:
        renderer = LabelledRenderer(tokenizer.chat_template)
    template = None
    if data.prompt_template:
        form = data.format if task.labels == "none" else "text"
        template = PromptTemplate(template_text(data.prompt_template), data.fields, form)
    pipeline = RowPipeline(
        renderer,
        RowTokenizer(tokenizer) if task.labels == "none" else LabelledTokenizer(tokenizer, task.labels),
        data,
        config.cache_dir,
        cleaner=make_cleaner(config),
        prompt_template=template,
        task=task,
    )
    return pipeline, tokenizer


def last_answer(example: Example) -> str:
    """Returns the last trained text of a row; empty where none is."""
    return next((part.text for part in reversed(example.segments) if part.train), "")


def _batches(items: Iterable[RenderedRow]) -> Iterator[list[RenderedRow]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def _location(found: RawRow) -> str:
    return f"{found.file}:{found.line}: {found.reason}"
