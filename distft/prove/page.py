"""proof.html: every line of a proof in a page that needs no other file, no network and no script."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

from distft.prove.proof import STATUSES, Line

TITLES = {
    "versions": "Versions",
    "strategies": "Strategies, against one process on the CPU",
    "attention": "Attention kernels, and whether documents are kept apart",
    "options": "Options, against one process on the CPU",
    "resume": "Killed and resumed",
    "micro": "What single parts cost",
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
    """Returns the page; every text is escaped."""
    loader = PrefixLoader({"prove": PackageLoader("distft.prove", "."), "report": PackageLoader("distft.report", ".")})
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "number": number,
        "facts": facts_of,
        "short": lambda check: check.partition(".")[2] or check,
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
