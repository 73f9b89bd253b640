"""Differences between two runs: rows, series of numbers, and how they are shown.

The rule on a device that is not deterministic: at every step the resumed run may be as far from the nearer of two
uninterrupted runs as ten times the largest distance between these two, of loss, gradient norm and held-out loss, up to
four steps later. At a single step two noisy numbers may be close by chance, and noise only grows with the steps. With
three times 2.3% of 6,072 triples of runs that nobody interrupted would have failed, with five 0.15%, with ten none.
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
    """`what`, in words how much of it was `compared`, and the verdict."""

    what: str
    compared: str
    verdict: str
    holds: bool

    @property
    def equal(self) -> bool:
        return self.verdict == EQUAL


def relative(first: float, second: float) -> float:
    """Returns how far apart two numbers are, as a part of the larger; 0 for the same, infinite for one NaN."""
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
    """How far apart two numbers may be, relatively: nothing, a tolerance, or what noise explains."""

    tolerance: float = 0.0
    floor: Series = field(default_factory=dict)  # step -> distance of two uninterrupted runs

    def at(self, step: int) -> float:
        return max([self.tolerance, *(FACTOR * value for there, value in self.floor.items() if there <= step + AHEAD)])

    def describe(self, distance: float, floor: float) -> str:
        """Returns the verdict for numbers that are at most `distance` apart, and it is allowed."""
        if self.floor:
            return f"within noise {distance:.1e} (floor {floor:.1e})"
        return f"within {self.tolerance:.0e}: at most {distance:.1e} apart"


def read_series(run: RunFolder, what: str) -> Series:
    split, key = (NOISY | EXACT)[what]
    return {row["step"]: row[key] for row in run.read_metrics(split)}


def noise_floor(straight: RunFolder, again: RunFolder) -> Series:
    """Returns how far apart two uninterrupted runs are at each step."""
    floor: Series = {}
    for what in NOISY:
        first, second = read_series(straight, what), read_series(again, what)
        for step in first.keys() & second.keys():
            floor[step] = max(floor.get(step, 0.0), relative(first[step], second[step]))
    return floor


def compare_series(what: str, straight: list[RunFolder], resumed: RunFolder, limit: Limit) -> Finding:
    """Holds each step's number against the nearest of the straight runs; the first of them is reported."""
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
    """Holds every attempt's micro-batches against the straight run's; on another layout the rows of every step."""
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
    """A step in which the attempt was killed may lack rows; none may have another row, or one twice."""
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
    """Prints a line for each finding, what does not hold in red."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "compared", "resumed"):
        table.add_column(heading, overflow="fold")
    for each in findings:
        table.add_row(each.what, each.compared, each.verdict, style=None if each.holds else "red")
    console.print(table)
