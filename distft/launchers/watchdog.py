"""Ends a run that hangs: watches the beats of a node's ranks from the process that started them.

It is outside of the ranks, since one that hangs may hold its interpreter's lock. The node that notices first calls the
others through the store where they have met; every node writes its ranks' stacks to the run folder, and the first names
those that the others wait for.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]  # documented there

from distft.launchers.health import Health, write_health
from distft.launchers.limits import Limits
from distft.launchers.meeting import Meeting
from distft.launchers.silence import Ranks, Told, as_json, late
from distft.run import RunFolder
from distft.runtime import stacks
from distft.runtime.errors import HANG, Failure

_SECONDS_BETWEEN_LOOKS = 0.25
_SECONDS_BETWEEN_TELLING = 10.0  # the run folder where the ranks are; one small file, of one node
_SECONDS_FOR_OTHERS = 10.0
_MOST_NAMED = 8


class Watchdog:
    """Watches one attempt on one node."""

    def __init__(self, run: RunFolder, meeting: Meeting, ranks: Ranks, limits: Limits) -> None:
        self.run, self.meeting, self.ranks, self.limits = run, meeting, ranks, limits
        self.node = meeting.node
        self.health = Health(ranks)

    def watch(self, over: threading.Event) -> None:
        """Returns when `over` is set, or after the run has hung and its ranks of this node have been ended."""
        store = self.meeting.client()
        due = time.monotonic()
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            why = self.ranks.look(_SECONDS_BETWEEN_LOOKS)
            with suppress(DistError):  # a node that is gone is the meeting's to notice
                if time.monotonic() >= due:
                    due = time.monotonic() + _SECONDS_BETWEEN_TELLING
                    self._tell_health(store)
                if why or store.check(["hang"]):
                    self._end(store, why)
                    return
        self.ranks.look(_SECONDS_BETWEEN_LOOKS)
        with suppress(DistError):  # of a short run it is the only time
            self._tell_health(store)

    def _tell_health(self, store: TCPStore) -> None:
        if self.node.count > 1:
            store.set(f"health-{self.node.index}", json.dumps(self.health.rows()))
        if self.node.index == 0:
            others = [f"health-{i}" for i in range(1, self.node.count)]
            rows = [row for key in others if store.check([key]) for row in json.loads(store.get(key))]
            write_health(self.run, self.meeting.attempt, [*self.health.rows(), *rows])

    def _end(self, store: TCPStore, why: str) -> None:
        """Has every rank tell where it is, tells the failure where this node noticed first, and ends the ranks."""
        me = str(self.node.index)
        is_first = bool(why) and store.compare_set("hang", "", me).decode() == me
        told = self.ranks.tell()
        write_stacks(self.run, self.meeting.attempt, self.node.index, told)
        store.set(f"hang-{me}", json.dumps(as_json(told)))
        if is_first:
            missing = []
            for index in [i for i in range(self.node.count) if str(i) != me]:
                if answer := _wait_for(store, f"hang-{index}"):
                    told += [Told(**each) for each in json.loads(answer)]
                else:
                    missing.append(index)
            self.meeting.tell(failure_of(self.run, self.meeting.attempt, why, told, missing))
        else:
            _wait_for(store, "failure")
        self.ranks.kill()


@contextmanager
def watched(run: RunFolder, meeting: Meeting, folder: Path, processes: int, limits: Limits) -> Iterator[None]:
    """Has a thread watch the ranks of this node inside the block."""
    first = meeting.node.index * processes
    dog = Watchdog(run, meeting, Ranks(folder, range(first, first + processes), limits), limits)
    over = threading.Event()
    thread = threading.Thread(target=dog.watch, args=(over,), daemon=True, name="watchdog")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_SECONDS_FOR_OTHERS)


def failure_of(run: RunFolder, attempt: int, why: str, told: Sequence[Told], missing: Sequence[int]) -> Failure:
    """Returns the failure of a run that hangs: which ranks are to blame as far as can be told, and where they are."""
    behind = late(told)
    silent = max(each.silent_seconds for each in told)
    if missing:
        blamed = f"node {', '.join(map(str, missing))} does not answer"
    elif not behind and len(told) == 1:
        blamed = told[0].words()
    elif not behind:
        furthest = max(each.collectives for each in told)
        blamed = f"every rank has entered collective {furthest}: the network between them, or what each does after it"
    else:
        furthest = max(each.collectives for each in told)
        names = "; ".join(each.words() for each in behind[:_MOST_NAMED])
        more = f" and {len(behind) - _MOST_NAMED} more" if len(behind) > _MOST_NAMED else ""
        blamed = f"collective {furthest} was not entered by {names}{more}"
    culprit = (behind or told)[0] if len(behind or told) == 1 else None
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
    """Returns where a node writes what its ranks' threads were doing when the run hung."""
    return run.rank_log(attempt, 0).with_name(f"stacks-node-{node}.txt")


def write_stacks(run: RunFolder, attempt: int, node: int, told: Sequence[Told]) -> None:
    """Writes the stacks of a node's ranks, each under where it is; a disk that takes nothing does not save the run."""
    parts = []
    for each in told:
        about = f"{each.words()}, {each.collectives} collectives, silent for {each.silent_seconds:.1f} s"
        parts.append(f"== {about}\n{each.stacks or '(no answer)'}\n")
    with suppress(OSError):
        stacks_file(run, attempt, node).write_text("\n".join(parts))


def _wait_for(store: TCPStore, key: str) -> str:
    """Returns what the store has under a key, empty when nothing came in time."""
    deadline = time.monotonic() + _SECONDS_FOR_OTHERS
    while not store.check([key]):
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.05)
    return store.get(key).decode()
