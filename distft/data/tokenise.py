"""Rendered text into token rows: each row is tokenised whole, and a token is trained by its place in the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from distft.data.render import Rendered
from distft.data.shards import Row


@dataclass(frozen=True)
class Tokenised:
    row: Row
    full_length: int  # tokens before the cut at max_length


class Tokeniser:
    """Gives the ids that the tokenizer's own `apply_chat_template(tokenize=True)` gives, cut at `max_length`."""

    def __init__(self, tokenizer: Any, max_length: int | None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.bos = _own_bos(tokenizer)
        self.eos = tokenizer.eos_token_id

    def __call__(self, batch: Sequence[Rendered]) -> list[Tokenised]:
        encoded = self.tokenizer(
            [rendered.text for rendered in batch],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [
            self._row(rendered, ids, offsets)
            for rendered, ids, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _row(self, rendered: Rendered, ids: list[int], offsets: list[tuple[int, int]]) -> Tokenised:
        input_ids = np.array(ids, dtype=np.int32)
        flat = np.fromiter(chain.from_iterable(offsets), dtype=np.int64, count=2 * len(offsets))
        trained = _inside(rendered, flat.reshape(-1, 2))
        if rendered.add_bos and self.bos is not None and ids[:1] != [self.bos]:
            input_ids, trained = np.insert(input_ids, 0, self.bos), np.insert(trained, 0, False)
        if rendered.add_eos and self.eos is not None and ids[-1:] != [self.eos]:
            input_ids, trained = np.append(input_ids, np.int32(self.eos)), np.append(trained, True)
        cut = slice(0, self.max_length)
        return Tokenised(Row(input_ids[cut], trained[cut]), len(input_ids))


def _inside(rendered: Rendered, offsets: np.ndarray) -> np.ndarray:
    """Returns which tokens begin inside a trained span; spaces before it that a token took along do not count.

    A token that begins with other text of the prompt is never what the model generates there: not trained.
    """
    trained = np.zeros(len(offsets), dtype=bool)
    starts, ends = offsets[:, 0], offsets[:, 1]
    for start, end in rendered.spans:
        free = len(rendered.text[:start].rstrip(" "))
        trained |= (starts >= free) & (ends > start) & (ends <= end)
    return trained


def _own_bos(tokenizer: Any) -> int | None:
    """Returns the begin token if the tokenizer puts one before a text by itself."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else None
