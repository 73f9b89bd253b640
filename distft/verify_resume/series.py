"""The numbers of metrics.jsonl, step by step, and how far apart two runs may be in them.

The rule on a device that is not deterministic: at every step the resumed run may be as far from the nearer of two
uninterrupted runs as ten times the largest distance between these two, of loss, gradient norm and held-out loss, up to
four steps later. At a single step two noisy numbers may be close by chance, and noise only grows with the steps. With
three times 2.3% of 6,072 triples of runs that nobody interrupted would have failed, with five 0.15%, with ten none.
"""

from dataclasses import dataclass, field

from distft.run import RunFolder
from distft.verify_resume.finding import EQUAL, Finding, relative

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

    def told(self, distance: float, floor: float) -> str:
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
    """Holds each step's number against the nearest of the straight runs; the first of them is the one told of."""
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
    return Finding(what, compared, limit.told(max(apart.values()), max(limit.floor.values(), default=0.0)), True)
