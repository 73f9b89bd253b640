"""Which ranks of a node are silent, and what can be told of them from outside."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distft.launchers.limits import Limits, StepSeconds
from distft.runtime import heartbeat, stacks
from distft.runtime.heartbeat import Beat

_STATES = {"T": "stopped by a signal", "t": "held by a debugger", "D": "waiting for a disk or the network"}
_GONE = "ZX"


@dataclass(frozen=True)
class Told:
    """What is known of one rank when the run hangs."""

    rank: int
    host: str
    step: int
    phase: str
    collectives: int
    silent_seconds: float
    state: str  # of its process, in words; empty when it runs
    stacks: str

    def words(self) -> str:
        how = f", {self.state}" if self.state else ""
        return f"rank {self.rank} on {self.host} in {self.phase} of step {self.step}{how}"


class Ranks:
    """The ranks of this node, watched by their beats."""

    def __init__(self, folder: Path, ranks: Sequence[int], limits: Limits) -> None:
        """folder: where they beat."""
        self.folder, self.numbers = folder, ranks
        self.pace = StepSeconds(limits)
        self.last: dict[int, Beat] = {}
        self._changed = dict.fromkeys(ranks, time.monotonic())  # when a rank was last seen to go on
        self._looked = time.monotonic()

    def look(self, period: float) -> str:
        """Returns why the run counts as hung, an empty text while it does not.

        period: seconds between looks. What this process has slept through is no rank's silence: the machine may have
        been suspended.
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
        return whence if any(self._is_there(self.last.get(rank)) for rank in silent) else ""

    def limit(self) -> tuple[float, str]:
        """Returns the seconds that any rank may be silent, and where from: a rank that saves has others wait for it."""
        beats = [self.last.get(rank) for rank in self.numbers]
        return max(self.pace.limit(beat.phase if beat else "start") for beat in beats)

    def tell(self) -> list[Told]:
        """Asks every rank where it is, and returns what each says."""
        alive = {rank: beat for rank, beat in self.last.items() if self._is_there(beat)}
        states = {rank: _STATES.get(_state(beat.pid), "") for rank, beat in alive.items()}
        said = stacks.ask({beat.pid: stack_file(self.folder, rank) for rank, beat in alive.items()})
        now, told = time.monotonic(), []
        for rank in self.numbers:
            beat = self.last.get(rank, Beat(0, 0, "start", 0, 0, 0.0, {}))
            silent = now - self._changed[rank]
            state = states.get(rank, "not there" if rank not in alive else "")
            text = said.get(beat.pid, "")
            told.append(Told(rank, socket.gethostname(), beat.step, beat.phase, beat.collectives, silent, state, text))
        return told

    def kill(self) -> None:
        """Ends every rank at once."""
        for beat in self.last.values():
            if _state(beat.pid) not in _GONE:
                os.kill(beat.pid, 9)

    @staticmethod
    def _is_there(beat: Beat | None) -> bool:
        """Tells a rank that may still go on from one that has ended; one that has not begun may."""
        return beat is None or _state(beat.pid) not in _GONE

    @staticmethod
    def _is_other(new: Beat, old: Beat | None) -> bool:
        return old is None or (new.beats, new.collectives) != (old.beats, old.collectives)


def stack_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.stacks"


def late(told: Sequence[Told]) -> list[Told]:
    """Returns the ranks that are behind the others: those that have not entered the collective that others are in."""
    furthest = max(each.collectives for each in told)
    return [each for each in told if each.collectives < furthest]


def as_json(told: Sequence[Told]) -> list[dict[str, Any]]:
    return [asdict(each) for each in told]


def _state(pid: int) -> str:
    """Returns the kernel's letter for a child of this process; X when there is none of that number any more."""
    try:
        letter, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X"
    return letter if int(parent) == os.getpid() else "X"
