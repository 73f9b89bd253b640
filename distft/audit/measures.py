"""What an audit found, as audit.json holds it: one object per measure, each with its known limits.

There is no overall score: a sum over unlike measures would hide what is wrong.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distft.audit.statistics import Interval
from distft.run import read_json, write_json

FILE = "audit.json"
ANY = "any"  # of fail_on: every flag
SIGNIFICANT = 0.05
TOO_FEW = 30  # items below which nothing is flagged


@dataclass(frozen=True)
class Measure:
    """One number of an audit.

    base: before training, or before cleaning in an audit of data; of data that were not cleaned: as they are.
    tuned: after it; None where there is no second state.
    low, high: 95% interval of tuned - base; of base where tuned is None. For gaps: of the change in their size.
    n: items that it is computed from. p: corrected for the other measures of its kind.
    group: whom or what it is about. where: the part of the data, such as `role user` or `source a.jsonl`.
    intervals: of base and tuned by themselves, where they are estimated.
    """

    axis: str
    measure: str
    base: float | None
    tuned: float | None
    low: float | None
    high: float | None
    n: int
    flag: bool
    limits: str
    group: str = ""
    where: str = "all"
    p: float | None = None
    intervals: dict[str, Interval] | None = None
    note: str = ""

    def line(self) -> str:
        """Returns the measure as a line of text."""
        name = " ".join(filter(None, (self.measure, self.group, "" if self.where == "all" else f"({self.where})")))
        values = [f"{_shown(self.base)}" if self.tuned is None else f"{_shown(self.base)} -> {_shown(self.tuned)}"]
        if self.low is not None and self.high is not None:
            values.append(f"[{_shown(self.low)}, {_shown(self.high)}]")
        if self.p is not None:
            values.append(f"p {self.p:.2g}")
        return f"{self.axis}: {name} {' '.join(values)}, n {self.n:,}{f', {self.note}' if self.note else ''}"


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write_measures(folder: Path, found: Sequence[Measure]) -> Path:
    """Writes audit.json, what is flagged first; returns its path."""
    order = sorted(found, key=lambda each: not each.flag)
    write_json(folder / FILE, [asdict(each) for each in order])
    return folder / FILE


def read_measures(folder: Path) -> list[Measure]:
    """Returns the measures of an audit; none without audit.json."""
    file = folder / FILE
    known = set(Measure.__dataclass_fields__)
    rows: list[Mapping[str, Any]] = read_json(file) if file.is_file() else []
    return [Measure(**{key: value for key, value in row.items() if key in known}) for row in rows]


def flags_asked_for(found: Iterable[Measure], asked: Sequence[str]) -> list[Measure]:
    """Returns the flagged measures that fail_on names, by axis, by measure or by `any`."""
    return [each for each in found if each.flag and ({ANY, each.axis, each.measure} & set(asked))]


def corrected(found: Sequence[Measure], adjusted: Sequence[float], is_wider: Sequence[bool]) -> list[Measure]:
    """Returns the measures with corrected p-values, flagged where those are significant and the gap is wider."""
    return [
        replace(each, p=p, flag=bool(p < SIGNIFICANT and wider and each.n >= TOO_FEW))
        for each, p, wider in zip(found, adjusted, is_wider, strict=True)
    ]
