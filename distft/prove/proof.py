"""proof.jsonl: one JSON object for each check, written as soon as it is known.

Keys: check, status, value, unit, expected, seconds, detail. `pass`: the value is as expected, or a measurement without
an expected value succeeded. `fail`: it is not as expected. `skipped`: this machine lacks what the check needs.
`not_run`: no time was left, or the proof was interrupted. detail: `device` and `shapes`, `text` with the reason or what
was compared, and further measurements.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

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
    detail: Mapping[str, object] = field(default_factory=dict)  # `text`, and further measurements of the check

    @property
    def text(self) -> str:
        """The reason, or what was compared."""
        return str(self.detail.get("text", ""))


def at_most(check: str, value: float, limit: float, unit: str, text: str, **detail: Any) -> Line:
    """Returns a line that passes where `value` is at most `limit`; NaN fails."""
    status: Status = "pass" if value <= limit else "fail"
    return Line(check, status, value, unit, f"<= {limit:g}", detail={"text": text, **detail})


def failed(check: str, text: str, **detail: Any) -> Line:
    return Line(check, "fail", detail={"text": text, **detail})


def skipped(check: str, text: str) -> Line:
    return Line(check, "skipped", detail={"text": text})


def not_run(check: str, text: str) -> Line:
    return Line(check, "not_run", detail={"text": text})


class Proof:
    """The lines of one proof; each is written to the file as soon as it is added."""

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        """about: entries that the detail of every line has, such as the device."""
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
    """Yields the lines of a proof.jsonl, without a last line that is cut off."""
    for text in file.read_text().splitlines(keepends=True):
        if text.endswith("\n"):
            yield Line(**json.loads(text))


TITLES = {
    "versions": "Versions",
    "strategies": "Strategies, against one process on the CPU",
    "attention": "Attention kernels, and isolation of packed documents",
    "options": "Options, against one process on the CPU",
    "resume": "Killed and resumed",
    "micro": "Cost of the parts of a step",
    "lora_8b": "LoRA, 8B parameters, rows of 4,096 tokens",
    "full_1b": "All weights, 1B parameters, rows of mixed lengths",
    "full_06b": "All weights, 0.6B parameters, rows of 8,192 tokens",
    "full_8b": "All weights, 8B parameters, rows of 4,096 tokens",
    "zero2_1b": "ZeRO-2, 1B parameters, rows of mixed lengths",
    "collectives": "Collectives between devices",
    "doctor": "Doctor",
}
_SHOWN_APART = {"device", "shapes", "text"}  # of a line's detail


def write_page(out: Path, facts: Mapping[str, Any], lines: Sequence[Line], seconds: float) -> None:
    out.write_text(render(facts, lines, seconds))


def render(facts: Mapping[str, Any], lines: Sequence[Line], seconds: float) -> str:
    """Returns the page as HTML; every text is escaped."""
    loader = PrefixLoader({"prove": PackageLoader("distft.prove", "."), "report": PackageLoader("distft.report", ".")})
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "number": number,
        "facts": facts_of,
        "short": short,
    }
    counts = {status: sum(line.status == status for line in lines) for status in STATUSES}
    parts = [(TITLES.get(word, word), rows) for word, rows in parts_of(lines)]
    failing = [line for line in lines if line.status == "fail"]
    small = bool(lines) and lines[0].detail.get("shapes") == "small"
    template = environment.get_template("prove/page.html.jinja")
    return template.render(
        facts=facts,
        machine=list(machine_rows(facts)),
        parts=parts,
        failing=failing,
        counts=counts,
        seconds=seconds,
        small=small,
    )


def parts_of(lines: Iterable[Line]) -> list[tuple[str, list[Line]]]:
    """Returns the lines by the first part of their names, in the order of TITLES."""
    found: dict[str, list[Line]] = {word: [] for word in TITLES}
    for line in lines:
        found.setdefault(line.check.partition(".")[0], []).append(line)
    return [(word, rows) for word, rows in found.items() if rows]


def short(check: str) -> str:
    """Returns a check's name under the heading of its group."""
    return check.partition(".")[2] or check


def number(value: Any) -> str:
    """Formats a number with three or four significant digits."""
    if value is None or isinstance(value, bool):
        return ""
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def facts_of(line: Line) -> list[tuple[str, str]]:
    """Returns the further measurements of a line as pairs of texts."""
    found = []
    for key, value in line.detail.items():
        if key in _SHOWN_APART or value in (None, "", [], {}):
            continue
        text = ", ".join(map(number, value)) if isinstance(value, list) else number(value)
        found.append((key.replace("_", " "), text))
    return found


def machine_rows(facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yields the facts of the machine as pairs of texts."""
    for key, value in facts.items():
        if key == "packages":
            yield "packages", ", ".join(f"{name} {version}" for name, version in value.items())
        elif key == "code":
            yield "commit", f"{value['commit'][:12]}{' with changes' * value['changed']}" if value else "unknown"
        else:
            yield key.replace("_", " "), str(value)
