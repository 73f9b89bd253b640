"""The hang watchdog: watches the heartbeats of a node's ranks from the process that started them.

It runs outside of the ranks, since a rank that hangs may hold its GIL. The node that notices first notifies the others
through the rendezvous store; every node writes its ranks' stacks to the run folder, and the first names the ranks that
the others wait for.

health.json: one node writes it for all, a few times a minute; `python -m distft.runs show` reads it.
"""

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TypedDict

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]  # documented there

from distft.config.parts import Launcher
from distft.launchers.rendezvous import Rendezvous
from distft.run import RunFolder, write_json
from distft.runtime import heartbeat, stacks
from distft.runtime.errors import HANG, Failure
from distft.runtime.heartbeat import OUTSIDE, Beat

FLOOR_SECONDS = 300.0  # a shared disk may block for minutes
STEPS_LONG = 10  # median steps; a healthy step never takes as long
OUTSIDE_SECONDS = 1800.0


class RankHealth(TypedDict):
    """A rank in health.json. seconds_a_step: by phase."""

    rank: int
    host: str
    step: int
    phase: str
    collectives: int
    seconds_a_step: dict[str, float]


_FIRST_STEPS = 3  # they compile, warm up and read for the first time
_STEPS_REMEMBERED = 101


@dataclass(frozen=True)
class Limits:
    """launcher.hang_seconds and launcher.hang_seconds_outside."""

    step: float | None = None  # None: derived from the median step
    outside: float = OUTSIDE_SECONDS  # start, save, evaluate; 0 disables the watchdog

    @classmethod
    def of(cls, launcher: Launcher) -> "Limits":
        """Returns those of a frozen config; one of an older version has none."""
        return cls(launcher.hang_seconds, launcher.hang_seconds_outside)


class StepSeconds:
    """The step times of one attempt, and the limit on a rank's silence that follows from them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._last_step: int | None = None
        self._seconds: deque[float] = deque(maxlen=_STEPS_REMEMBERED)

    def see(self, beat: Beat) -> None:
        if beat.step_seconds and beat.step != self._last_step:
            self._last_step = beat.step
            self._seconds.append(beat.step_seconds)

    def limit(self, phase: str) -> tuple[float, str]:
        """Returns the limit in seconds on silence in `phase`, infinite when there is none, and its origin."""
        asked, outside = self.limits.step, self.limits.outside
        if phase in OUTSIDE:
            return outside or float("inf"), f"launcher.hang_seconds_outside={outside:g}"
        if asked is not None:
            return asked or float("inf"), f"launcher.hang_seconds={asked:g}"
        if len(self._seconds) < _FIRST_STEPS:
            return outside or float("inf"), f"launcher.hang_seconds_outside={outside:g}, of the first steps"
        typical = median(self._seconds)
        own = max(FLOOR_SECONDS, STEPS_LONG * typical)
        return own, f"{own:g} s, by median steps of {typical:.1f} s; launcher.hang_seconds sets it"


_STATES = {"T": "stopped by a signal", "t": "held by a debugger", "D": "waiting for a disk or the network"}
_GONE = "ZX"


@dataclass(frozen=True)
class RankState:
    """The state of one rank when the run hangs."""

    rank: int
    host: str
    step: int
    phase: str
    collectives: int
    silent_seconds: float
    state: str  # of its process, for the user; empty when it runs
    stacks: str

    def describe(self) -> str:
        how = f", {self.state}" if self.state else ""
        return f"rank {self.rank} on {self.host} in {self.phase} of step {self.step}{how}"


class Ranks:
    """The ranks of this node, watched by their heartbeats."""

    def __init__(self, folder: Path, ranks: Sequence[int], limits: Limits) -> None:
        """folder: of their heartbeat files."""
        self.folder, self.numbers = folder, ranks
        self.pace = StepSeconds(limits)
        self.last: dict[int, Beat] = {}
        self._changed = dict.fromkeys(ranks, time.monotonic())  # when a rank last made progress
        self._looked = time.monotonic()

    def check(self, period: float) -> str:
        """Returns why the run is considered hung, an empty text if it is not.

        period: seconds between checks. Time in which this process itself was suspended is not a rank's silence: the
        machine may have slept.
        """
        now = time.monotonic()
        slept = now - self._looked if now - self._looked > 10 * period else 0.0
        self._looked = now
        for rank in self.numbers:
            self._changed[rank] += slept
            beat = heartbeat.read(heartbeat.beat_file(self.folder, rank))
            if beat is not None and self._is_other(beat, self.last.get(rank)):
                self._changed[rank], self.last[rank] = now, beat
                self.pace.see(beat)
        limit, whence = self.limit()
        silent = [rank for rank in self.numbers if now - self._changed[rank] > limit]
        return whence if any(self._is_alive(self.last.get(rank)) for rank in silent) else ""

    def limit(self) -> tuple[float, str]:
        """Returns the largest limit over all ranks and its origin: when one rank saves, the others wait for it."""
        beats = [self.last.get(rank) for rank in self.numbers]
        return max(self.pace.limit(beat.phase if beat else "start") for beat in beats)

    def query(self) -> list[RankState]:
        """Requests the stacks of every rank and returns the states."""
        alive = {rank: beat for rank, beat in self.last.items() if self._is_alive(beat)}
        process_states = {rank: _STATES.get(_state(beat.pid), "") for rank, beat in alive.items()}
        said = stacks.ask({beat.pid: stack_file(self.folder, rank) for rank, beat in alive.items()})
        now, found = time.monotonic(), []
        for rank in self.numbers:
            beat = self.last.get(rank, Beat(0, 0, "start", 0, 0, 0.0, {}))
            silent = now - self._changed[rank]
            state = process_states.get(rank, "not there" if rank not in alive else "")
            text = said.get(beat.pid, "")
            found.append(
                RankState(rank, socket.gethostname(), beat.step, beat.phase, beat.collectives, silent, state, text)
            )
        return found

    def kill(self) -> None:
        """Kills every rank."""
        for beat in self.last.values():
            if _state(beat.pid) not in _GONE:
                os.kill(beat.pid, 9)

    @staticmethod
    def _is_alive(beat: Beat | None) -> bool:
        """Returns whether a rank can still make progress: it has not exited, or not started yet."""
        return beat is None or _state(beat.pid) not in _GONE

    @staticmethod
    def _is_other(new: Beat, old: Beat | None) -> bool:
        return old is None or (new.beats, new.collectives) != (old.beats, old.collectives)


def stack_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.stacks"


def lagging(states: Sequence[RankState]) -> list[RankState]:
    """Returns the ranks that have not entered the collective that others are in."""
    furthest = max(each.collectives for each in states)
    return [each for each in states if each.collectives < furthest]


def as_json(states: Sequence[RankState]) -> list[Mapping[str, object]]:
    return [asdict(each) for each in states]


def _state(pid: int) -> str:
    """Returns the kernel's state letter for a child process; X when it is gone."""
    try:
        letter, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X"
    return letter if int(parent) == os.getpid() else "X"


_LEAST_STEPS = 16  # window of the mean seconds per step


class Health:
    """What the ranks of one node did since the last call of rows()."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._before: dict[int, Beat] = {}
        self._spent: dict[int, dict[str, float]] = {}

    def rows(self) -> list[RankHealth]:
        """Returns a row per rank: its position, and its recent seconds per step in each phase."""
        rows: list[RankHealth] = []
        for rank, beat in self._ranks.last.items():
            before = self._before.setdefault(rank, beat)
            steps = beat.step - before.step
            if steps >= _LEAST_STEPS or (steps > 0 and rank not in self._spent):
                spent = {phase: (beat.seconds[phase] - before.seconds[phase]) / steps for phase in beat.seconds}
                self._spent[rank] = {phase: round(seconds, 6) for phase, seconds in spent.items() if seconds > 0}
                self._before[rank] = beat
            rows.append(
                {
                    "rank": rank,
                    "host": socket.gethostname(),
                    "step": beat.step,
                    "phase": beat.phase,
                    "collectives": beat.collectives,
                    "seconds_a_step": self._spent.get(rank, {}),
                }
            )
        return rows


def write_health(run: RunFolder, attempt: int, rows: Sequence[RankHealth]) -> None:
    """Replaces health.json; errors of the disk are ignored, so that the ranks go on."""
    with suppress(OSError):
        write_json(run.health, {"time": time.time(), "attempt": attempt, "ranks": list(rows)})


_SECONDS_BETWEEN_LOOKS = 0.25
_SECONDS_BETWEEN_REPORTS = 10.0  # writes of health.json: one small file, by one node
_SECONDS_FOR_OTHERS = 10.0
_MOST_NAMED = 8


class Watchdog:
    """Watches one attempt on one node."""

    def __init__(self, run: RunFolder, rendezvous: Rendezvous, ranks: Ranks, limits: Limits) -> None:
        self.run, self.rendezvous, self.ranks, self.limits = run, rendezvous, ranks, limits
        self.node = rendezvous.node
        self.health = Health(ranks)

    def watch(self, over: threading.Event) -> None:
        """Watches until `over` is set, or until the run hangs and this node's ranks have been killed."""
        store = self.rendezvous.client()
        due = time.monotonic()
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            why = self.ranks.check(_SECONDS_BETWEEN_LOOKS)
            with suppress(DistError):  # Rendezvous.watched reports a lost node
                if time.monotonic() >= due:
                    due = time.monotonic() + _SECONDS_BETWEEN_REPORTS
                    self._report_health(store)
                if why or store.check(["hang"]):
                    self._end(store, why)
                    return
        self.ranks.check(_SECONDS_BETWEEN_LOOKS)
        with suppress(DistError):  # the only write in a short run
            self._report_health(store)

    def _report_health(self, store: TCPStore) -> None:
        if self.node.count > 1:
            store.set(f"health-{self.node.index}", json.dumps(self.health.rows()))
        if self.node.index == 0:
            others = [f"health-{i}" for i in range(1, self.node.count)]
            rows = [row for key in others if store.check([key]) for row in json.loads(store.get(key))]
            write_health(self.run, self.rendezvous.attempt, [*self.health.rows(), *rows])

    def _end(self, store: TCPStore, why: str) -> None:
        """Collects the stacks of all ranks, reports the failure if this node noticed first, and kills the ranks."""
        me = str(self.node.index)
        is_first = bool(why) and store.compare_set("hang", "", me).decode() == me
        states = self.ranks.query()
        write_stacks(self.run, self.rendezvous.attempt, self.node.index, states)
        store.set(f"hang-{me}", json.dumps(as_json(states)))
        if is_first:
            missing = []
            for index in [i for i in range(self.node.count) if str(i) != me]:
                if answer := _wait_for(store, f"hang-{index}"):
                    states += [RankState(**each) for each in json.loads(answer)]
                else:
                    missing.append(index)
            self.rendezvous.report_failure(failure_of(self.run, self.rendezvous.attempt, why, states, missing))
        else:
            _wait_for(store, "failure")
        self.ranks.kill()


@contextmanager
def watched(run: RunFolder, rendezvous: Rendezvous, folder: Path, processes: int, limits: Limits) -> Iterator[None]:
    """Watches the ranks of this node from a thread inside the block."""
    first = rendezvous.node.index * processes
    dog = Watchdog(run, rendezvous, Ranks(folder, range(first, first + processes), limits), limits)
    over = threading.Event()
    thread = threading.Thread(target=dog.watch, args=(over,), daemon=True, name="watchdog")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_SECONDS_FOR_OTHERS)


def failure_of(run: RunFolder, attempt: int, why: str, states: Sequence[RankState], missing: Sequence[int]) -> Failure:
    """Returns the failure of a run that hangs: the ranks that the others wait for, and their positions."""
    behind = lagging(states)
    silent = max(each.silent_seconds for each in states)
    if missing:
        blamed = f"node {', '.join(map(str, missing))} does not answer"
    elif not behind and len(states) == 1:
        blamed = states[0].describe()
    elif not behind:
        furthest = max(each.collectives for each in states)
        blamed = (
            f"every rank has entered collective {furthest}: "
            "the cause is the network between them, or what they run after it"
        )
    else:
        furthest = max(each.collectives for each in states)
        names = "; ".join(each.describe() for each in behind[:_MOST_NAMED])
        more = f" and {len(behind) - _MOST_NAMED} more" if len(behind) > _MOST_NAMED else ""
        blamed = f"collective {furthest} was not entered by {names}{more}"
    culprit = (behind or states)[0] if len(behind or states) == 1 else None
    frames = stacks.main_thread(culprit.stacks) if culprit else []
    own = [frame for frame in frames if "/distft/" in frame] or frames
    return Failure(
        rank=culprit.rank if culprit else None,
        host=culprit.host if culprit else socket.gethostname(),
        type=HANG,
        message=f"no progress for {silent:.1f} s ({why}): {blamed}. Stacks of all ranks: {stacks_file(run, attempt)}",
        where=own[-1].partition(" in ")[0] if own else None,
        log=str(run.rank_log(attempt, culprit.rank)) if culprit else str(run.rank_log(attempt, 0).parent),
        time=time.time() - silent,
        traceback="\n".join(frames),
    )


def stacks_file(run: RunFolder, attempt: int, node: int | str = "*") -> Path:
    """Returns the file with the stacks of a node's ranks at the time of the hang."""
    return run.rank_log(attempt, 0).with_name(f"stacks-node-{node}.txt")


def write_stacks(run: RunFolder, attempt: int, node: int, states: Sequence[RankState]) -> None:
    """Writes the stacks of a node's ranks, each under its position; a full disk is ignored, the run still ends."""
    parts = []
    for each in states:
        about = f"{each.describe()}, {each.collectives} collectives, silent for {each.silent_seconds:.1f} s"
        parts.append(f"== {about}\n{each.stacks or '(no answer)'}\n")
    with suppress(OSError):
        stacks_file(run, attempt, node).write_text("\n".join(parts))


def _wait_for(store: TCPStore, key: str) -> str:
    """Returns the value of a key of the store, empty when it was not set in time."""
    deadline = time.monotonic() + _SECONDS_FOR_OTHERS
    while not store.check([key]):
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.05)
    return store.get(key).decode()
