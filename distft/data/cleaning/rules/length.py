"""Answers of unusual length: outside fixed limits, or far from the median of all answers.

Distance is that of the log length from its median in MADs, scaled to standard deviations of a normal distribution.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distft.data.cleaning.contract import Columns
from distft.data.cleaning.view import View

VERSION = 1
_MIN_ROWS = 30  # fewer have no median to speak of
_SCALE = 1.4826  # MAD of a normal distribution -> its standard deviation
_MIN_SPREAD = 0.05  # 5% in length: where all answers are alike, none is an outlier by a word


@dataclass(frozen=True)
class Rule:
    min_words: int = 0
    max_words: int | None = None
    outlier: float = 0.0

    def sign(self, views: Sequence[View]) -> Columns:
        return {"words": np.array([len(view.answer_words) for view in views], dtype=np.int32)}

    def compare(self, signatures: Columns, alive: np.ndarray) -> Iterator[tuple[int, int | None, str]]:
        words = signatures["words"]
        logs = np.log1p(words[alive])
        median = float(np.median(logs)) if len(logs) else 0.0
        spread = _SCALE * float(np.median(np.abs(logs - median))) if len(logs) else 0.0
        distance = np.abs(np.log1p(words) - median) / max(spread, _MIN_SPREAD)
        judge = bool(self.outlier) and len(logs) >= _MIN_ROWS
        for row in np.flatnonzero(alive):
            count = int(words[row])
            if count < self.min_words or (self.max_words is not None and count > self.max_words):
                most = "" if self.max_words is None else f" to {self.max_words}"
                yield int(row), None, f"the answer has {count} words, allowed are {self.min_words}{most}"
            elif judge and distance[row] > self.outlier:
                yield (
                    int(row),
                    None,
                    f"the answer has {count} words, {distance[row]:.1f} MADs from the median {np.expm1(median):.0f}",
                )
