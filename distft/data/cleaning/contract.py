"""What a cleaning rule is: a module of `rules/` with VERSION and a frozen dataclass `Rule` of its options.

VERSION is in the content key: increment it when the same row gives another finding. NEEDS, if
there, names the packages that it imports, of the extra `data`. A Rule has one of three methods:

- `change(text)`: another text for one text of a row, e.g. repaired or redacted;
- `find(view)`: what is wrong with a row, by itself;
- `sign(views)` and `compare(signatures, alive)`: what is wrong with a row, compared to all others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distft.data.cleaning.view import View

Columns = Mapping[str, np.ndarray]  # name -> [rows], [rows, k], or flat with the number of each row in NAME_count


@dataclass(frozen=True)
class Finding:
    """What a rule found in a row; labels are counted in the report. Without a reason there is nothing wrong."""

    reason: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """Another text in place of the one that was looked at."""

    text: str
    finding: Finding


class TextRule(Protocol):
    def change(self, text: str) -> Change | None: ...


class RowRule(Protocol):
    def find(self, view: View) -> Finding | None: ...


class SetRule(Protocol):
    """Compares rows: `sign` runs per batch, in any process; `compare` once, over all rows in their order."""

    def sign(self, views: Sequence[View]) -> Columns: ...

    def compare(self, signatures: Columns, alive: np.ndarray) -> Iterator[tuple[int, int | None, str] | str]:
        """Yields row, the similar earlier row, and the reason, in which `{other}` stands for that row's place.

        A text by itself is a remark on the whole comparison, for the report.
        Only rows in the mask `alive`, bool [rows], are looked at.
        """
        ...
