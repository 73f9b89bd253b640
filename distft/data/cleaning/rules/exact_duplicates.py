"""Rows equal to an earlier one, except for case, spacing and punctuation; the first of them stays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from distft.data.cleaning.contract import Columns
from distft.data.cleaning.view import View

VERSION = 1


@dataclass(frozen=True)
class Rule:
    parts: Sequence[str] = field(default=("pair",))

    def sign(self, views: Sequence[View]) -> Columns:
        return {part: np.array([view.identity(part) for view in views], dtype=np.uint64) for part in self.parts}

    def compare(self, signatures: Columns, alive: np.ndarray) -> Iterator[tuple[int, int | None, str]]:
        alive = alive.copy()
        for part in self.parts:
            rows = np.flatnonzero(alive & (signatures[part] != 0))
            _, first, inverse = np.unique(signatures[part][rows], return_index=True, return_inverse=True)
            original = rows[first[inverse]]
            copies = np.flatnonzero(original != rows)
            alive[rows[copies]] = False
            for copy in copies:
                yield int(rows[copy]), int(original[copy]), f"the same {part} as {{other}}"
