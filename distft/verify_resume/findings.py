"""Differences between two runs: rows read, series of numbers, and the table of findings.

Rule on a device that is not deterministic: at every step, the distance of the resumed run to the nearer of two
uninterrupted runs is at most 10 times the largest distance between these two, over loss, gradient norm and held-out
loss, up to 4 steps later. Later steps are included because two noisy numbers may be close by chance at a single step,
and noise grows with the steps. Of 6,072 triples of uninterrupted runs, a factor of 3 would have failed 2.3%, a factor
of 5 0.15%, a factor of 10 none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from distft.run import RunFolder
from distft.verify_resume.runs import Fed, read_fed

EQUAL = "bit-equal"


@dataclass(frozen=True)
class Finding:
    """What was compared, how much of it, and the verdict."""

    what: str
    compared: str
    verdict: str
    holds: bool

    @property
    def equal(self) -> bool:
        return self.verdict == EQUAL


def relative(first: float, second: float) -> float:
    """Returns the difference of two numbers relative to the larger; 0 for equal ones, infinite for one NaN."""
    if first == second or (first != first and second != second):
        return 0.0
    distance = abs(first - second) / max(abs(first), abs(second))
    return distance if distance == distance else float("inf")


Series = dict[int, float]  # step -> value
NOISY = {"losses": ("train", "loss"), "gradient norms": ("train", "grad_norm"), "held-out losses": ("eval", "loss")}
EXACT = {"learning rates": ("train", "learning_rate")}
FACTOR, AHEAD = 10, 4


@dataclass(frozen=True)
class Limit:
    """The largest relative difference allowed: zero, a tolerance, or a multiple of the noise floor."""

    tolerance: float = 0.0
    floor: Series = field(default_factory=dict)  # step -> relative difference of two uninterrupted runs

    def at(self, step: int) -> float:
        return max([self.tolerance, *(FACTOR * value for there, value in self.floor.items() if there <= step + AHEAD)])

    def describe(self, distance: float, floor: float) -> str:
        """Returns the verdict for numbers that differ by at most `distance`, where that is allowed."""
        if self.floor:
            return f"within noise {distance:.1e} (floor {floor:.1e})"
        return f"within {self.tolerance:.0e}: at most {distance:.1e} apart"


def read_series(run: RunFolder, what: str) -> Series:
    split, key = (NOISY | EXACT)[what]
    return {row["step"]: row[key] for row in run.read_metrics(split)}


def noise_floor(straight: RunFolder, again: RunFolder) -> Series:
    """Returns the largest relative difference of two uninterrupted runs at each step."""
    floor: Series = {}
    for what in NOISY:
        first, second = read_series(straight, what), read_series(again, what)
        for step in first.keys() & second.keys():
            floor[step] = max(floor.get(step, 0.0), relative(first[step], second[step]))
    return floor


def compare_series(what: str, straight: list[RunFolder], resumed: RunFolder, limit: Limit) -> Finding:
    """Compares each step's number with the nearest of the uninterrupted runs; messages quote the first of them."""
    wanted, found = [read_series(run, what) for run in straight], read_series(resumed, what)
    steps = sorted(wanted[0])
    compared = f"{len(steps)}, of steps {steps[0]} to {steps[-1]}" if steps else "none in this run"
    if sorted(found) != steps:
        step = min(set(found) ^ set(steps))
        return Finding(what, compared, f"step {step}: {'missing' if step in steps else 'one too many'}", False)
    apart = {step: min(relative(found[step], series[step]) for series in wanted) for step in steps}
    for step in steps:
        if apart[step] > limit.at(step):
            allowed = f", {limit.at(step):.1e} allowed" if limit.at(step) else ""
            verdict = f"step {step}: {found[step]!r} instead of {wanted[0][step]!r}, {apart[step]:.1e} apart{allowed}"
            return Finding(what, compared, verdict, False)
    if all(relative(found[step], wanted[0][step]) == 0 for step in steps):
        return Finding(what, compared, EQUAL, True)
    return Finding(what, compared, limit.describe(max(apart.values()), max(limit.floor.values(), default=0.0)), True)


def compare_rows(straight: RunFolder, resumed: RunFolder, *, same_layout: bool) -> Finding:
    """Compares every attempt's micro-batches with the uninterrupted run's; on another layout the rows of each step."""
    wanted = read_fed(straight)[1]
    attempts = read_fed(resumed)
    twice = sum(map(_count, attempts.values())) - _count(wanted)
    compared = f"{_count(wanted)} in {len(_per_step(wanted))} steps, {twice} of them again after a kill"
    differ = _differ if same_layout else _differ_by_step
    found = [why for attempt, fed in sorted(attempts.items()) if (why := differ(wanted, fed, attempt))]
    unread = _per_step(wanted).keys() - {step for fed in attempts.values() for step in _per_step(fed)}
    found += [f"step {min(unread)}: nothing was read"] if unread else []
    verdict = EQUAL if same_layout else "the same in every step"
    return Finding("rows read", compared, found[0] if found else verdict, not found)


def _differ(wanted: Fed, fed: Fed, attempt: int) -> str | None:
    for step, rank, micro in sorted(fed):
        if fed[step, rank, micro] != wanted.get((step, rank, micro)):
            return f"step {step}: attempt {attempt} read other rows in micro-batch {micro} on rank {rank}"
    return None


def _differ_by_step(wanted: Fed, fed: Fed, attempt: int) -> str | None:
    """Returns a step with other rows, or a row twice; the step in which the attempt was killed may lack rows."""
    steps, whole = _per_step(fed), _per_step(wanted)
    for step, rows in sorted(steps.items()):
        foreign = rows - whole.get(step, Counter())
        if foreign or (step < max(steps) and rows != whole[step]):
            return f"step {step}: attempt {attempt} read {len(foreign)} other rows"
    return None


def _per_step(fed: Fed) -> dict[int, Counter[str]]:
    steps: dict[int, Counter[str]] = {}
    for (step, _, _), rows in fed.items():
        steps.setdefault(step, Counter()).update(rows)
    return steps


def _count(fed: Fed) -> int:
    return sum(map(len, fed.values()))


def show(findings: Sequence[Finding], title: str, console: Console) -> None:
    """Prints the findings as a table; failed ones are red."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "compared", "resumed"):
        table.add_column(heading, overflow="fold")
    for each in findings:
        table.add_row(each.what, each.compared, each.verdict, style=None if each.holds else "red")
    console.print(table)
