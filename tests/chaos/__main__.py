"""Injects faults into tiny local runs and compares each with a run without: `python -m tests.chaos faults=50 seed=0`.

    faults=50  seed=0  ranks=2        number of faults, ten per run, each run with another strategy
    every=30   seconds=600            instead: a fault at this interval in one longer run; prints its goodput
    kinds=SIGKILL,lock                only these
    run=3                             only this one of the runs
    out=DIR                           where runs, chaos.json and chaos.md go

A run with `nan` or `spike` faults is compared with a run in which the same steps are changed the same way: a bad row is
bad each time that it is read, and with train.on_non_finite=skip its step is skipped.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distft.run import RunFolder
from tests.chaos.faults import BY_THE_CLOCK, KINDS, NUMBERS, Fault, draw
from tests.chaos.goodput import keep_harming
from tests.chaos.measure import SECONDS_TO_NEXT_STEP, Cost, broken, costs, differences
from tests.chaos.runs import Harmed, NotDone, bring_to_end, settings
from tests.chaos.table import percentile, table, write

IN_A_RUN = 10
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3", "zero1")
_DISK_BYTES = 2**26


@dataclass
class Result:
    """All faults of all runs, and what did not hold."""

    found: list[Cost] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def harm(
    out: Path, name: str, faults: Sequence[Fault], ranks: int, *overrides: str
) -> tuple[Harmed, list[Cost], list[str]]:
    """Makes a run with these faults, and the same without; returns what they cost, and all that does not hold."""
    with disk(out / "disk"):
        numbers = [fault for fault in faults if fault.kind in NUMBERS]
        straight, run = RunFolder(out / "disk" / f"{name}-straight"), RunFolder(out / "disk" / name)
        steps = settings(out, run, faults, ranks, *overrides)
        bring_to_end(straight, numbers, [*steps, f"name={straight.path.name}"])
        harmed = bring_to_end(run, faults, steps)
        try:
            found = costs(harmed)
            wrong = [*broken(harmed, found), *(f"{name}: {each}" for each in differences(straight, run))]
        finally:
            for taken in harmed.taken.values():
                taken.close()
            subprocess.run(["cp", "-r", str(out / "disk"), str(out / f"kept-{name}")], check=False)
    return harmed, found, wrong


def harm_all(
    out: Path, count: int, seed: int, ranks: int, kinds: Sequence[str], only: int | None, *overrides: str
) -> Result:
    """Harms as many runs as `count` faults take, each with another strategy, every second one saving in the
    background."""
    result, drawn = Result(), draw(kinds, count, seed, ranks)
    for first in range(0, count, IN_A_RUN):
        number = first // IN_A_RUN
        if only not in (None, number):
            continue
        chosen = [fault.kind for fault in drawn[first : first + IN_A_RUN]]
        faults = draw(chosen, len(chosen), seed + number, ranks)
        strategy, background = STRATEGIES[number % len(STRATEGIES)], str(bool(number % 2)).lower()
        settings = (f"strategy={strategy}", f"checkpoint.background={background}", *overrides)
        began, load = time.time(), os.getloadavg()[0]
        try:
            _, found, wrong = harm(out, f"run-{number}", faults, ranks, *settings)
        except NotDone as error:
            found, wrong = [], [str(error)]
        result.found += found
        result.wrong += wrong
        print(
            f"run {number}, {strategy}: {len(faults)} faults in {time.time() - began:.0f} s, load {load:.1f}",
            flush=True,
        )
        print("\n".join(f"  WRONG {each}" for each in wrong), flush=True)
    slow = [c.next_step_seconds - c.limit_seconds for c in result.found if c.next_step_seconds is not None]
    if slow and percentile(slow, 0.95) > SECONDS_TO_NEXT_STEP:
        result.wrong.append(f"95% of the next steps came within {percentile(slow, 0.95):.1f} s, not 15")
    return result


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Puts a small disk at `folder`, or a folder where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    mounted = may_mount() and not subprocess.run(command, check=False).returncode
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def may_mount() -> bool:
    return os.geteuid() == 0


def main(arguments: list[str]) -> int:
    """Returns 0 when every run came to its end by itself and every bar holds."""
    given = dict(argument.split("=", 1) for argument in arguments)
    out = Path(given.pop("out", "") or tempfile.mkdtemp(prefix="chaos-")).absolute()
    out.mkdir(parents=True, exist_ok=True)
    seed, ranks, count = (int(given.pop(key, default)) for key, default in (("seed", 0), ("ranks", 2), ("faults", 50)))
    every = given.pop("every", "")
    usual = BY_THE_CLOCK if every else [each for each in KINDS if each != "disk" or may_mount()]
    kinds = given.pop("kinds", ",".join(usual)).split(",")
    if every:
        return keep_harming(out, float(every), float(given.pop("seconds", "600")), seed, ranks, kinds)
    only = int(given.pop("run")) if "run" in given else None
    result = harm_all(out, count, seed, ranks, kinds, only, *(f"{key}={value}" for key, value in given.items()))
    write(out / "chaos", result.found, {"seed": seed, "ranks": ranks, "wrong": result.wrong})
    print(table(result.found))
    print("\n".join(result.wrong) or f"all of it holds: {out}")
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
