"""The plan of every job of a sweep, as `distft.plan` makes that of a run: nothing is prepared, written or started."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from distft.config.compose import Config, compose
from distft.config.errors import ConfigError
from distft.plan import make_plan
from distft.plan.show import UNITS, fits_in_words, unit_of
from distft.run import Plan
from distft.stages import make_part
from distft.sweep.jobs import Wrong, named, words
from distft.sweep.multirun import shared_config
from distft.sweep.request import corners, parse, read_request

_MOST_OF_A_SEARCH = 64  # combinations of choices and ends


def plan_sweep(overrides: Sequence[str]) -> tuple[str, dict[str, tuple[Config, Plan]]]:
    """Returns what the sweep is, in words, and config and plan of each job by its name; ConfigError with all errors.

    A search has no points before it runs: then they are the combinations of its choices and the ends of its ranges.
    """
    request = read_request(overrides)
    parsed = parse(request.swept)
    config = shared_config(request, parsed)
    known, further = make_part(config, "sweep").points(parsed, {})
    points = named(known) if known else {words(point): point for point in corners(parsed, _MOST_OF_A_SEARCH)}
    planned, wrong = dict[str, tuple[Config, Plan]](), Wrong()
    for name, point in points.items():
        try:
            job = compose(request.of_job(point), sweep=True)
            planned[name] = job, make_plan(job)
        except ConfigError as error:
            wrong.add(name, error.messages)
    wrong.raise_any()
    if further or not known:
        trials = config.values["sweep"].get("trials")
        return f"a search of {', '.join(request.keys)}, {trials} jobs. Choices and ends of ranges:", planned
    return f"a sweep of {', '.join(request.keys)}, {len(planned)} job{'s' * (len(planned) != 1)}", planned


def table(title: str, planned: dict[str, tuple[Config, Plan]], memory_gib: float | None) -> Table:
    """Returns a line for each job: steps, tokens, and what lives through the run in each process."""
    shape = Table(title=title, title_justify="left")
    sizes = [plan.memory[config.choices["strategy"]]["total"] for config, plan in planned.values() if plan.memory]
    unit = unit_of(max(sizes, default=0))
    for name in ("job", "strategy", "processes", "steps", "tokens", f"{unit} per process", ""):
        shape.add_column(name, overflow="fold", justify="left" if name in ("job", "strategy", "") else "right")
    for name, (config, plan) in planned.items():
        strategy, about = config.choices["strategy"], "about " if plan.estimated else ""
        counted: dict[str, Any] = plan.memory.get(strategy, {})
        size = f"{counted['total'] / UNITS[unit]:.2f}" if counted else ""
        fits = fits_in_words(counted, memory_gib) if counted else ""
        steps, tokens = (f"{about}{number:,}" if number else "unknown" for number in (plan.steps, plan.tokens))
        shape.add_row(name, strategy, str(plan.world), steps, tokens, size, fits)
    return shape
