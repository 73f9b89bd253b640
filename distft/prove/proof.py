"""proof.jsonl: one JSON object for each check, written as soon as it is known.

Keys: check, status, value, unit, expected, seconds, detail. `pass`: what is expected holds, or a measurement was made
that nothing is expected of. `fail`: it does not hold. `skipped`: this machine lacks what the check needs.
`not_run`: no time was left, or the proof was interrupted. detail: `device` and `shapes` of every check, `text` that
says the reason or what was compared, and whatever else was measured.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from distft.run import json_text

Status = Literal["pass", "fail", "skipped", "not_run"]
STATUSES: tuple[Status, ...] = ("pass", "fail", "skipped", "not_run")


@dataclass(frozen=True)
class Line:
    """The result of one check."""

    check: str
    status: Status
    value: float | str | None = None
    unit: str = ""
    expected: str = ""
    seconds: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Why it is so, or what was compared, in words."""
        return str(self.detail.get("text", ""))


def at_most(check: str, value: float, limit: float, unit: str, text: str, **detail: Any) -> Line:
    """Returns a line that passes where `value` is a number of at most `limit`."""
    status: Status = "pass" if value <= limit else "fail"  # NaN is above every limit
    return Line(check, status, value, unit, f"<= {limit:g}", detail={"text": text, **detail})


def failed(check: str, text: str, **detail: Any) -> Line:
    return Line(check, "fail", detail={"text": text, **detail})


def skipped(check: str, text: str) -> Line:
    return Line(check, "skipped", detail={"text": text})


def not_run(check: str, text: str) -> Line:
    return Line(check, "not_run", detail={"text": text})


class Proof:
    """The lines of one proof, in a file that has each as soon as it is added."""

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        """about: what the detail of every line says, such as the device."""
        self.file, self.about = file, dict(about)
        self.lines: list[Line] = []

    def add(self, line: Line) -> None:
        line = replace(line, seconds=round(line.seconds, 1), detail={**self.about, **line.detail})
        self.lines.append(line)
        with self.file.open("a") as file:
            file.write(json_text(asdict(line)) + "\n")

    @property
    def has_failed(self) -> bool:
        return any(line.status == "fail" for line in self.lines)

    def count(self, status: Status) -> int:
        return sum(line.status == status for line in self.lines)


def read_lines(file: Path) -> Iterator[Line]:
    """Yields the lines of a proof.jsonl; a last one that was cut off is left out."""
    for text in file.read_text().splitlines(keepends=True):
        if text.endswith("\n"):
            yield Line(**json.loads(text))
