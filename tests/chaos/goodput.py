"""A longer run with a fault at a fixed interval, and its goodput."""

import json
from collections.abc import Sequence
from pathlib import Path

from distft.run import RunFolder, read_json
from tests.chaos.faults import by_the_clock
from tests.chaos.measure import costs
from tests.chaos.runs import bring_to_end, settings
from tests.chaos.table import table

_SAVE_EVERY = 100


def keep_harming(out: Path, every: float, seconds: float, seed: int, ranks: int, kinds: Sequence[str]) -> int:
    """Runs steps for about this number of seconds, and prints the goodput; returns 0."""
    run = RunFolder(out / "runs" / f"every-{every:g}")
    steps = max(100, int(seconds / seconds_a_step(out, ranks)))
    faults = by_the_clock(kinds, every, 3 * seconds, seed, ranks)
    harmed = bring_to_end(run, faults, settings(out, run, [], ranks, *long(steps)))
    found = [cost for cost in costs(harmed) if cost.fired]
    print(table(found))
    print(json.dumps(goodput(run) | {"every_seconds": every, "faults": len(found)}))
    return 0


def long(steps: int) -> list[str]:
    return [f"train.max_steps={steps}", f"checkpoint.every_steps={_SAVE_EVERY}", "eval.every_steps=null"]


def seconds_a_step(out: Path, ranks: int) -> float:
    """Returns the seconds of a step and of everything between steps, from a short run without faults."""
    run = RunFolder(out / "runs" / "pace")
    harmed = bring_to_end(run, [], settings(out, run, [], ranks, *long(300)))
    times = [each["time"] for each in harmed.steps()]
    return (times[-1] - times[99]) / (len(times) - 100)


def goodput(run: RunFolder) -> dict[str, float]:
    """Returns the run's own goodput, of all its time and without its starts, and where each second went."""
    reported = read_json(run.path / "goodput.json")
    seconds, wall = reported["seconds"], reported["wall_seconds"]
    without = seconds["productive"] / (wall - seconds["start"])
    return {"goodput": reported["goodput"], "goodput_without_starts": without, "wall_seconds": wall, **seconds}
