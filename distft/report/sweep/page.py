"""Renders a sweep as one self-contained HTML file, and its runs as a CSV table.

Trap: a spreadsheet executes a cell that begins with = + - or @; such text gets a leading apostrophe.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distft.report.page import breakable, template
from distft.report.sweep import headline
from distft.report.sweep.drawings import INCH, Drawing, drawings, window
from distft.report.sweep.jobs import Job, Sweep, as_number, metric_text, value_text
from distft.report.sweep.settings import Difference, Setting, compare, rank


@dataclass(frozen=True)
class Place:
    """One line of the ranked table."""

    number: int
    setting: Setting
    behind: Difference | None  # None for the best
    bar: tuple[float, float, float] | None  # low, mean and high, in percent of the column


def render(sweep: Sweep) -> str:
    """Returns the page; every text from the sweep is escaped, only distft's own drawings are markup."""
    texts = [
        headline.difference_text,
        headline.hours_text,
        headline.interval_text,
        metric_text,
        value_text,
        headline.setting_text,
        breakable,
    ]
    ranking = rank(sweep)
    return template("sweep/page.html.jinja", **{text.__name__: text for text in texts}).render(
        sweep=sweep,
        metric=sweep.selection.metric.replace("_", " "),
        keys=[key for key in sweep.swept if key != "seed"],
        counts=headline.counts(sweep),
        failures=failures(sweep),
        headline=headline.headline(sweep, ranking),
        doubts=headline.doubts(sweep, ranking),
        best=ranking[0].best if ranking else None,
        elsewhere=headline.best_elsewhere(ranking) if ranking else None,
        places=list(places(ranking)),
        hours=sum(job.process_hours for job in sweep.jobs),
        tokens=sum(job.tokens for job in sweep.jobs),
        drawn=[on_page(drawing, number) for number, drawing in enumerate(drawings(sweep, ranking))],
        by_rank=sorted(sweep.jobs, key=rank_of),
    )


def rank_of(job: Job) -> tuple[bool, bool, float]:
    """Sort key: ranked runs first, the best first."""
    return not job.is_ranked, job.objective is None, 0.0 if job.objective is None else job.cost


def write(sweep: Sweep, out: Path) -> None:
    out.write_text(render(sweep))


def places(ranking: Sequence[Setting]) -> Iterator[Place]:
    """Yields the ranked settings, with their intervals on one scale derived from the means."""
    if not ranking:
        return
    low, high = window([setting.mean for setting in ranking], ranking[0].best.selection.sign)

    def percent(value: float) -> float:
        return round(min(100.0, max(0.0, 100 * (0.2 + 0.6 * (value - low) / (high - low)))), 1)

    for number, setting in enumerate(ranking, start=1):
        ends = setting.interval
        bar = (percent(ends.low), percent(setting.mean), percent(ends.high)) if ends else None
        yield Place(number, setting, compare(ranking[0], setting) if number > 1 else None, bar)


def failures(sweep: Sweep) -> list[tuple[str, list[Job]]]:
    """Returns the failed runs by their last error line, the most common first."""
    groups: dict[str, list[Job]] = {}
    for job in sweep.jobs:
        if job.state == "failed":
            groups.setdefault((job.reason or "").strip(), []).append(job)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def on_page(drawing: Drawing, number: int) -> Mapping[str, object]:
    """Returns the template's values of a drawing, with a second version for narrow windows where it needs one."""
    width, height = drawing.narrow or drawing.size
    return {
        "kind": drawing.kind,
        "svg": Markup(drawing.on_page(drawing.size, f"sweep {number}")),
        "narrow": Markup(drawing.on_page((width, height), f"narrow {number}")) if drawing.narrow else None,
        "pixels": round(width * INCH),
    }


MEASURED = ("objective", "objective_step", "train_loss", "tokens", "process_hours", "peak_memory_gib")


def write_table(sweep: Sweep, path: Path) -> None:
    keys = [key for key in sweep.swept if key != "seed"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, "seed", "state", *MEASURED, "run", "reason"])
        for job in sweep.jobs:
            writer.writerow([cell(value) for value in cells(job, keys)])


def cells(job: Job, keys: list[str]) -> list[Any]:
    measured = [getattr(job, name) for name in MEASURED]
    return [*(plain(job.values.get(key)) for key in keys), job.seed, job.state, *measured, job.folder, job.reason]


def plain(value: Any) -> Any:
    """Returns a swept value unrounded; null, true and lists as typed on a command line."""
    return value if isinstance(value, str | float) else value_text(value)


def cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and as_number(value) is None:
        return f"'{value}"
    return value
