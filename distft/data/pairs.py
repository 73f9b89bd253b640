"""Preference pairs: both sides rendered, cut each in a budget of its own, and joined to one row of two documents.

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
class Pair:
    """The texts of both sides."""

    chosen: Rendered
    rejected: Rendered

    @property
    def sides(self) -> tuple[Rendered, Rendered]:
        return self.chosen, self.rejected


def sides_of(example: Example) -> tuple[Example, Example]:
    """Returns a pair's two conversations; raises BadField for a weight of a single message.

    A loss of pairs has one weight per pair, the row's.
    """
    for part in (*example.segments, *example.rejected):
        if part.train and part.weight not in (0.0, 1.0):
            raise BadField("weight", f"of a message is {part.weight:g}; a pair has one weight, that of its row")
    # the weight of a pair belongs to the row: as a weight of tokens it would scale log-probabilities
    plain = replace(example, weight=float(example.weight > 0), rejected=())
    return plain, replace(plain, segments=example.rejected)


def render_pair(example: Example, render: Render) -> Pair:
    """Returns the rendered sides; raises BadField where an answer is split over texts that the template renders apart.

    render: `rows` of a renderer.
    """
    chosen, rejected = (render(side) for side in sides_of(example))
    for name, texts in zip(SIDES, (chosen, rejected), strict=True):
        if len(texts) > 1:
            raise BadField(name, "has turns that the chat template renders otherwise once another turn follows")
    return Pair(chosen[-1], rejected[-1])


def without_oldest(example: Example, count: int) -> Example | None:
    """Returns a pair whose prompt lacks its first `count` exchanges, system texts kept; None where nothing is left."""
    shared = num_shared(example.segments, example.rejected)
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
    """Returns documents with a common prompt, each in at most `max_length` tokens, with the same number of the prompt's.

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
    if len(rows) > 1 and np.array_equal(rows[0].input_ids, rows[1].input_ids):
        return f"chosen and rejected are equal within {max_length} tokens"
    return None
