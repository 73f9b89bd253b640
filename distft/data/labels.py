"""Labels of rows: what a task reads of a row's text, and the numbers of its classes.

A row with a label is the text as the tokenizer itself gives it, special tokens included, so that transformers' own
pipelines give a run's outputs. It has no chat template, and no answer.

The classes of all rows are known only when all have been read, so a chunk numbers its own (distft.data.classes).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distft.data.example import BadField, Example
from distft.data.render import Rendered, Training
from distft.data.shards import Row
from distft.data.tokenize import TokenizedRow
from distft.tasks import LabelKind

Names = tuple[str, ...]


class LabelledRenderer:
    """Takes a row's text as it is; with the attributes of the other renderers, of which it needs few."""

    date = None
    keys: tuple[str, ...] = ()
    read: frozenset[tuple[str, str]] = frozenset()

    def __init__(self, chat_template: str | None) -> None:
        """chat_template: the tokenizer's own, which final/ keeps."""
        self.chat_template, self.ends, self.training = chat_template, set[str](), Training()

    def __call__(self, example: Example) -> Rendered:
        """Returns the text, of words joined by spaces, and the words that have a tag as its spans."""
        words = [part.text for part in example.segments]
        starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
        tags = example.label if isinstance(example.label, tuple) and len(example.label) == len(words) else words
        spans = [(at, at + len(word)) for at, word, tag in zip(starts, words, tags, strict=False) if tag is not None]
        return Rendered(" ".join(words), tuple(spans))

    def rows(self, example: Example) -> list[Rendered]:
        return [self(example)]

    def unread(self, example: Example) -> list[tuple[str, str]]:
        return []

    def prompt(self, example: Example) -> Rendered:
        return self(example)


class LabelledTokenizer:
    """Returns the ids of `tokenizer(text)`, of which the last is read; of tags the first of each word."""

    def __init__(self, tokenizer: Any, kind: LabelKind) -> None:
        self.tokenizer = tokenizer
        self.kind: LabelKind = kind

    def __call__(self, batch: Sequence[Rendered]) -> list[TokenizedRow]:
        encoded = self.tokenizer(
            [each.text for each in batch], return_attention_mask=False, return_offsets_mapping=True, verbose=False
        )
        return [
            self._row(np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2), each)
            for ids, offsets, each in zip(encoded["input_ids"], encoded["offset_mapping"], batch, strict=True)
        ]

    def _row(self, input_ids: np.ndarray, offsets: np.ndarray, rendered: Rendered) -> TokenizedRow:
        if self.kind != "tags":
            return TokenizedRow(Row(input_ids, np.arange(len(input_ids)) == len(input_ids) - 1), len(input_ids))
        first = [np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < end)) for start, end in rendered.spans]
        read = {int(tokens[0]): word for word, tokens in reversed([*enumerate(first)]) if len(tokens)}
        trained = np.zeros(len(input_ids), bool)
        trained[[*read]] = True
        return TokenizedRow(Row(input_ids, trained), len(input_ids), tuple(read[token] for token in sorted(read)))

    def cut(self, row: Row, max_length: int) -> Row:
        """Returns the row with its first tokens, and the special tokens that end it, as the tokenizer cuts a text."""
        tail = self.num_end_tokens
        kept = np.r_[: max_length - tail, len(row.input_ids) - tail : len(row.input_ids)]
        trained = row.trained[kept] if self.kind == "tags" else np.arange(len(kept)) == len(kept) - 1
        return replace(row, input_ids=row.input_ids[kept], trained=trained)

    @property
    def num_end_tokens(self) -> int:
        """The special tokens that the tokenizer puts after a text, such as BERT's [SEP]."""
        ids = self.tokenizer("a")["input_ids"]
        is_special = [token in self.tokenizer.all_special_ids for token in ids]
        return next((i for i, special in enumerate(reversed(is_special)) if not special), 0)


def raw_label(kind: LabelKind, label: Any) -> "Names | tuple[float, ...]":
    """Returns the names of a row's classes, or its values; raises BadField where it has none."""
    if label is None:
        raise BadField("label", "is missing")
    several = label if isinstance(label, tuple) else (label,)
    return tuple(map(float, several)) if kind == "values" else tuple(str(each) for each in several if each is not None)


class ChunkLabels:
    """Numbers the classes of a chunk's rows, in the order in which they occur."""

    def __init__(self, kind: LabelKind) -> None:
        self.kind: LabelKind = kind
        self.names, self.has_lists = dict[str, int](), False

    def number(self, row: Row, label: Any, weight: float, words: tuple[int, ...] = ()) -> Row:
        """Returns the row with its label: the numbers of its classes in this chunk, or its values; and its weight.

        words: the tagged word of each token that is read, before the row was cut.
        """
        if self.kind == "none":
            return row
        raw = raw_label(self.kind, label)
        if self.kind == "tags":
            raw = tuple(str(raw[word]) for word in words[: int(row.trained.sum())])
        self.has_lists |= isinstance(label, tuple)
        numbers = raw if self.kind == "values" else [self.names.setdefault(str(name), len(self.names)) for name in raw]
        weights = None if weight == 1.0 else np.full(len(row.input_ids), weight, np.float32)
        return replace(row, labels=np.array(numbers, np.float32), weights=weights)

    @property
    def names_in_order(self) -> list[str]:
        """The classes by their number in this chunk."""
        return list(self.names)
