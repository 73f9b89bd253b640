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
        return Rendered("".join(part.text for part in example.segments), ())

    def rows(self, example: Example) -> list[Rendered]:
        return [self(example)]

    def unread(self, example: Example) -> list[tuple[str, str]]:
        return []

    def prompt(self, example: Example) -> Rendered:
        return self(example)


class LabelledTokenizer:
    """Returns the ids of `tokenizer(text)`, of which the last is read."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, batch: Sequence[Rendered]) -> list[TokenizedRow]:
        encoded = self.tokenizer([each.text for each in batch], return_attention_mask=False, verbose=False)
        return [self._row(np.array(ids, dtype=np.int32)) for ids in encoded["input_ids"]]

    def _row(self, input_ids: np.ndarray) -> TokenizedRow:
        return TokenizedRow(Row(input_ids, np.arange(len(input_ids)) == len(input_ids) - 1), len(input_ids))

    def cut(self, row: Row, max_length: int) -> Row:
        """Returns the row with its first tokens, and the special tokens that end it, as the tokenizer cuts a text."""
        tail = self.num_end_tokens
        kept = np.concatenate([row.input_ids[: max_length - tail], row.input_ids[len(row.input_ids) - tail :]])
        return replace(row, input_ids=kept, trained=np.arange(len(kept)) == len(kept) - 1)

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
    return tuple(map(float, several)) if kind == "values" else tuple(map(str, several))


class ChunkLabels:
    """Numbers the classes of a chunk's rows, in the order in which they occur."""

    def __init__(self, kind: LabelKind) -> None:
        self.kind, self.names, self.has_lists = kind, dict[str, int](), False

    def number(self, row: Row, label: Any, weight: float) -> Row:
        """Returns the row with its label: the numbers of its classes in this chunk, or its values; and its weight."""
        if self.kind == "none":
            return row
        raw = raw_label(self.kind, label)
        self.has_lists |= isinstance(label, tuple)
        numbers = raw if self.kind == "values" else [self.names.setdefault(str(name), len(self.names)) for name in raw]
        weights = None if weight == 1.0 else np.full(len(row.input_ids), weight, np.float32)
        return replace(row, labels=np.array(numbers, np.float32), weights=weights)

    @property
    def names_in_order(self) -> list[str]:
        """The classes by their number in this chunk."""
        return list(self.names)
