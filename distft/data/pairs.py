"""Preference pairs: both sides rendered, each cut in a budget of its own, and joined to one row of two documents.

A side is the prompt and one answer. The prompt is cut before an answer is: it keeps half of the budget at most where
the answers need the rest, and loses its beginning, so what directly precedes the answers stays.
Trap: a pair cut from the right as one text loses its answers first, and two equal or empty sides have no gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from distft.data.example import BadField, Example, Segment
from distft.data.render import Rendered
from distft.data.shards import Row

SIDES = ("chosen", "rejected")
Render = Callable[[Example], list[Rendered]]


@dataclass(frozen=True)
class Group:
    """The texts of a row of documents: both sides of a pair, or one answer with its label (KTO)."""

    documents: tuple[Rendered, ...]
    weight: float = 1.0  # of the row in the loss
    label: bool | None = None  # whether the one answer is desirable

    def join(self, rows: list[Row]) -> Row:
        """Returns the documents as one row."""
        lengths = [len(row.input_ids) for row in rows]
        return Row(
            np.concatenate([row.input_ids for row in rows]),
            np.concatenate([row.trained for row in rows]),
            None if self.weight == 1 else np.array([self.weight], dtype=np.float32),
            labels=None if self.label is None else np.array([self.label], dtype=np.float32),
            borders=np.cumsum(lengths[:-1], dtype=np.int32),
        )


def render_group(example: Example, render: Render) -> Group:
    """Returns the texts of a pair or of a labelled answer; raises BadField for a weight of a single message, and where
    the template renders an answer apart from what follows it.

    render: `rows` of a renderer. The weight of a row is the group's: as a weight of tokens it would scale
    log-probabilities.
    """
    for part in (*example.segments, *example.rejected):
        if part.train and part.weight not in (0.0, 1.0):
            raise BadField("weight", f"of a message is {part.weight:g}; a pair has one weight, that of its row")
    plain = replace(example, weight=float(example.weight > 0), rejected=())
    sides = [plain] + ([replace(plain, segments=example.rejected)] if example.rejected else [])
    texts = [render(side) for side in sides]
    for name, found in zip(SIDES, texts, strict=False):
        if len(found) > 1:
            raise BadField(name, "has turns that the chat template renders otherwise once another turn follows")
    label = None if example.rejected else bool(example.label)
    return Group(tuple(found[-1] for found in texts), example.weight, label)


def without_oldest(example: Example, count: int) -> Example | None:
    """Returns an example whose prompt lacks its first `count` exchanges, system texts kept; None where none is left."""
    shared = num_shared(example.segments, example.rejected or example.segments)
    first = next((i for i, part in enumerate(example.segments) if part.role not in ("system", "developer")), 0)
    starts = [i for i in range(first + 1, shared) if example.segments[i].role in ("user", "prompt")]
    if count > len(starts):
        return None
    cut = starts[count - 1]
    return replace(
        example,
        segments=example.segments[:first] + example.segments[cut:],
        rejected=example.rejected[:first] + example.rejected[cut:],
    )


def num_shared(one: tuple[Segment, ...], other: tuple[Segment, ...]) -> int:
    """Returns the number of untrained segments that both begin with: the prompt."""
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second or first.train:
            break
        count += 1
    return count


def prompt_length(row: Row) -> int:
    """Returns the tokens before the first trained one; all where none is trained."""
    at = np.flatnonzero(row.trained)
    return int(at[0]) if len(at) else len(row.input_ids)


def cut_answers(rows: list[Row], max_length: int, bos: int | None = None) -> list[Row]:
    """Returns documents in at most `max_length` tokens each, with the same number of tokens of their common prompt.

    bos: a token that stays first where a document begins with it.
    """
    if max(len(row.input_ids) for row in rows) <= max_length:
        return rows
    prompts = [prompt_length(row) for row in rows]
    answer = max(len(row.input_ids) - prompt for row, prompt in zip(rows, prompts, strict=True))
    kept = max(max_length - answer, max_length // 2)
    return [_cut(row, max(0, prompt - kept), max_length, bos) for row, prompt in zip(rows, prompts, strict=True)]


def _cut(row: Row, dropped: int, max_length: int, bos: int | None) -> Row:
    """Returns a document without the first `dropped` tokens of its prompt, in at most `max_length` tokens."""
    at = np.arange(dropped, len(row.input_ids))[:max_length]
    if dropped and bos is not None and row.input_ids[0] == bos:
        at[0] = 0
    weights = None if row.weights is None else row.weights[at]
    return replace(row, input_ids=row.input_ids[at], trained=row.trained[at], weights=weights)


def why_unusable(rows: list[Row], max_length: int) -> str | None:
    """Returns why a pair, or a single document, cannot be trained on; None where it can."""
    names = SIDES if len(rows) > 1 else ("answer",)
    for name, row in zip(names, rows, strict=True):
        if not row.trained[1:].any():
            return f"{name}: no token to train on within {max_length} tokens"
    if len(rows) > 1 and rows[0].input_ids.tobytes() == rows[1].input_ids.tobytes():
        return f"chosen and rejected are equal within {max_length} tokens"
    return None
