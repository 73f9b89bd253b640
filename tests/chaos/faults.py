"""The faults of a run, with place and time: drawn from a seed and written to a file that every rank reads.

Trap: a step is made again after a restart. What happens to processes happens once; what happens to numbers belongs to
the step, as a bad row does, and happens each time, in the run that nobody harms too.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DEAD = ("SIGKILL", "SIGSEGV", "abort", "exception", "agent", "fork server", "port", "corrupt")  # a process ends
HUNG = ("SIGSTOP", "lock", "regex", "library", "sleep")  # one does not go on
STOPS = ("SIGTERM", "SIGTERM launcher")  # the run saves and stops
LAUNCHER = ("launcher",)  # the launching process is killed
RESTARTS = DEAD + HUNG  # the launcher starts the run again
ENDS = RESTARTS + STOPS + LAUNCHER
NUMBERS = ("nan", "spike")  # the run goes on
BACKGROUND = ("slow", "disk")  # the run continues with the same numbers
KINDS = ENDS + NUMBERS + BACKGROUND
BY_THE_CLOCK = ("SIGKILL", "abort", "exception")  # what a cluster's machines do most
ALONE = ("disk", "corrupt", *STOPS)  # no fault follows soon: a stopped run is not restarted

START = ("first line", "loaded", "joined")
IN_STEP = ("forward", "backward", "update")
MOMENTS = (*START, *IN_STEP, "evaluation", "save")

EVERY = 4  # steps between saves
EVALUATE = 6  # steps between evaluations
SLOW_STEPS, SLOW_SECONDS = 6, 0.5
FULL_STEPS = 2 * EVERY  # until there is room again


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    number: int
    kind: str
    rank: int
    moment: str
    step: int  # in which; a fault of a start comes in the first start after that of the fault before it
    seconds: float = 0.0  # instead of a step: after the first step

    @property
    def is_of_start(self) -> bool:
        return self.moment in START


def draw(kinds: Sequence[str], count: int, seed: int, ranks: int) -> list[Fault]:
    """Returns `count` faults, each kind as often as the others, in the order in which they come.

    They come in pairs: the second of a pair follows at once or in a few steps, maybe before any new checkpoint; then
    there is time for one, as three starts without one end a run.
    """
    chance = random.Random(seed)
    order = [kinds[i % len(kinds)] for i in range(seed, seed + count)]
    chance.shuffle(order)
    found: list[Fault] = []
    for number, kind in enumerate(order):
        before = found[-1] if found else Fault(-1, "", 0, "", 0)
        is_near = number % 2 == 1 and before.kind not in ALONE and before.moment != "save"
        least = 1 if is_near else FULL_STEPS + 1 + (EVERY if before.kind == "disk" else 0)  # a save after there is room
        gap = chance.randint(least, least + EVERY - 1)
        moment = _moment(kind, chance, may_start=is_near and before.kind in ENDS)
        step = before.step if moment in START else before.step + gap
        every = {"evaluation": EVALUATE, "save": EVERY}.get(moment, 1)
        found.append(Fault(number, kind, chance.randrange(ranks), moment, -(-step // every) * every))
    return found


def by_the_clock(kinds: Sequence[str], every_seconds: float, seconds: float, seed: int, ranks: int) -> list[Fault]:
    """Returns a fault at this interval in seconds, from the first step on."""
    chance = random.Random(seed)
    times = [every_seconds * number for number in range(1, int(seconds / every_seconds) + 1)]
    return [
        Fault(number, chance.choice(kinds), chance.randrange(ranks), chance.choice(IN_STEP), 0, due)
        for number, due in enumerate(times)
    ]


def _moment(kind: str, chance: random.Random, may_start: bool) -> str:
    """Returns where in its step a fault comes; a hang mostly where the limit of a step counts, which is short."""
    if kind in HUNG and chance.random() < 0.8:
        return chance.choice(IN_STEP[:2])
    if kind in ENDS and kind != "corrupt":
        moments = MOMENTS if may_start else MOMENTS[len(START) :]
        return chance.choice([each for each in moments if (kind, each) != ("exception", "save")])
    return "forward"


def last_step(faults: Sequence[Fault]) -> int:
    """Returns at which step a run with these faults may end."""
    return max((fault.step for fault in faults), default=0) + 2 * FULL_STEPS


def write(folder: Path, faults: Sequence[Fault]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(json.dumps([asdict(each) for each in faults], indent=1))


def read(folder: Path) -> list[Fault]:
    return [Fault(**each) for each in json.loads((folder / "faults.json").read_text())]


def folder_of(run: Path) -> Path:
    """Returns the folder in which the faults of a run are planned and recorded, next to the disk that it may fill."""
    return run.parent.with_name("chaos") / run.name
