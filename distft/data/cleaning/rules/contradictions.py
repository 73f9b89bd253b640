"""Different short answers to one prompt, as labels contradict each other; all rows of the prompt are found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distft.data.cleaning.contract import Columns
from distft.data.cleaning.view import View

VERSION = 1


@dataclass(frozen=True)
class Rule:
    max_words: int = 5

    def sign(self, views: Sequence[View]) -> Columns:
        prompts = [view.identity("prompt") if self._judged(view) else 0 for view in views]
        answers = [view.identity("answer") if prompt else 0 for view, prompt in zip(views, prompts, strict=True)]
        return {"prompt": np.array(prompts, dtype=np.uint64), "answer": np.array(answers, dtype=np.uint64)}

    def _judged(self, view: View) -> bool:
        return bool(view.prompt.strip()) and len(view.words("answer")) <= self.max_words

    def compare(self, signatures: Columns, alive: np.ndarray) -> Iterator[tuple[int, int | None, str]]:
        rows = np.flatnonzero(alive & (signatures["prompt"] != 0))
        prompts, first, inverse = np.unique(signatures["prompt"][rows], return_index=True, return_inverse=True)
        pairs = np.unique(np.stack([inverse.astype(np.uint64), signatures["answer"][rows]], axis=1), axis=0)
        answers = np.bincount(pairs[:, 0].astype(np.int64), minlength=len(prompts))
        for place in np.flatnonzero(answers[inverse] > 1):
            group = inverse[place]
            earliest = int(rows[first[group]])
            yield (
                int(rows[place]),
                None if earliest == rows[place] else earliest,
                f"{answers[group]} different answers to one prompt"
                + ("" if earliest == rows[place] else ", the first in {other}"),
            )
