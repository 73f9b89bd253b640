"""proof.html: every line of a proof in a page that needs no other file, no network and no script."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

from distft.prove.proof import STATUSES, Line

TITLES = {
    "strategies": "Strategies against one process on the CPU",
    "attention": "Attention kernels",
    "options": "Options",
}
_SHOWN_APART = {"device", "shapes", "text"}  # of a line's detail


def write_page(out: Path, facts: Mapping[str, Any], lines: Sequence[Line], seconds: float) -> None:
    out.write_text(render(facts, lines, seconds))


def render(facts: Mapping[str, Any], lines: Sequence[Line], seconds: float) -> str:
    """Returns the page; every text is escaped."""
    loader = PrefixLoader({"prove": PackageLoader("distft.prove", "."), "report": PackageLoader("distft.report", ".")})
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "number": number,
        "facts": facts_of,
        "short": lambda check: check.partition(".")[2] or check,
    }
    counts = {status: sum(line.status == status for line in lines) for status in STATUSES}
    parts = [(TITLES.get(word, word), rows) for word, rows in _parts(lines)]
    small = bool(lines) and lines[0].detail.get("shapes") == "small"
    template = environment.get_template("prove/page.html.jinja")
    return template.render(facts=facts, machine=list(machine_rows(facts)), parts=parts, counts=counts,
                           seconds=seconds, small=small)  # fmt: skip


def _parts(lines: Sequence[Line]) -> Iterable[tuple[str, list[Line]]]:
    """Yields the lines by the first part of their names, in the order of the proof."""
    words = list(dict.fromkeys(line.check.partition(".")[0] for line in lines))
    ordered = sorted(lines, key=lambda line: words.index(line.check.partition(".")[0]))
    for word, rows in groupby(ordered, key=lambda line: line.check.partition(".")[0]):
        yield word, list(rows)


def short(check: str) -> str:
    """Returns a check's name under the heading of its group."""
    return check.partition(".")[2] or check


def number(value: Any) -> str:
    """Returns a number as a reader wants it: three or four digits that count."""
    if value is None or isinstance(value, bool):
        return ""
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def facts_of(line: Line) -> list[tuple[str, str]]:
    """Returns what else was measured, as pairs of texts."""
    found = []
    for key, value in line.detail.items():
        if key in _SHOWN_APART or value in (None, "", [], {}):
            continue
        text = ", ".join(map(number, value)) if isinstance(value, list) else number(value)
        found.append((key.replace("_", " "), text))
    return found


def machine_rows(facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yields what the machine is, and what was installed."""
    for key, value in facts.items():
        if key == "packages":
            yield "packages", ", ".join(f"{name} {version}" for name, version in value.items())
        elif key == "code":
            yield "commit", f"{value['commit'][:12]}{' with changes' * value['changed']}" if value else "unknown"
        else:
            yield key.replace("_", " "), str(value)
