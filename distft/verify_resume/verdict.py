"""Whether resuming changes a run: compared with one uninterrupted run, or two on a noisy device."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distft.verify_resume.findings import FACTOR, Limit, noise_floor, show
from distft.verify_resume.kills import Kill
from distft.verify_resume.runs import Recipe, kill_and_resume, run_straight

ANOTHER_LAYOUT = Limit(tolerance=2e-6)  # sums are added in another order


def prove(first: Recipe, later: Recipe, kills: Sequence[Kill], out: Path, console: Console) -> bool:
    """Prints the table of findings, and returns whether all hold.

    A second uninterrupted run measures the noise; a resumed run that is bit-equal does not need one.
    """
    same_layout = first == later
    console.print(f"{out}: {first.plan.steps} steps on {_processes(first)}, uninterrupted")
    straight = run_straight(first, out / "straight")
    then = "" if same_layout else f" on {_processes(later)}"
    console.print(f"the same with {len(kills)} kill{'s' * (len(kills) > 1)}, each resumed{then}")
    resumed = kill_and_resume(first, later, kills, out / "killed", console.print)
    from distft.verify_resume.compare import compare  # loads torch, which no other part of this process needs

    limit = Limit() if same_layout else ANOTHER_LAYOUT
    findings = compare([straight], resumed, limit, same_layout=same_layout)
    sentence = "Resumed and uninterrupted"
    if not all(finding.holds for finding in findings):
        console.print("they differ: uninterrupted once more, to know what differs without any kill")
        again = run_straight(first, out / "again")
        if all(finding.equal for finding in compare([straight], again, Limit(), same_layout=True)):
            sentence += "; two uninterrupted runs are bit-equal, so resuming changes the run"
        else:
            limit = Limit(limit.tolerance, noise_floor(straight, again))
            findings = compare([straight, again], resumed, limit, same_layout=same_layout)
            sentence += f"; two uninterrupted runs differ by {noise(limit)}, the resumed one may {FACTOR} times as much"
    show(findings, sentence, console)
    return all(finding.holds for finding in findings)


def noise(limit: Limit) -> str:
    """Describes the noise floor of each step; of a long run the first, the last and the highest."""
    steps = sorted(limit.floor)
    if len(steps) > 12:
        steps = sorted({steps[0], steps[-1], max(steps, key=lambda step: limit.floor[step])})
    return ", ".join(f"{limit.floor[step]:.1e} at step {step}" for step in steps)


def _processes(recipe: Recipe) -> str:
    world = recipe.plan.world
    return f"{world} process{'es' * (world > 1)} by {recipe.config.choices['strategy']}"
