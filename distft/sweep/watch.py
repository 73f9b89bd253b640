"""Watches the jobs of one submission to their end: none of them stops or hides another.

A signal, or with fail_fast the first failure, asks those that run to save and stop; those that wait are withdrawn, and
stay pending.
"""

import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from distft.launchers.contract import Handle, Outcome
from distft.launchers.follow import Following, Row
from distft.stages import make_part
from distft.sweep.board import Board
from distft.sweep.jobs import Job
from distft.sweep.status import SweepStatus
from distft.trackers.contract import Guarded

_SECONDS_BETWEEN_LOOKS = 0.2  # at all jobs together
_SECONDS_BETWEEN_STATES = 1.0


class Watched:
    """One submitted job."""

    def __init__(self, job: Job, handle: Handle, grace_seconds: float, board: Board, status: SweepStatus):
        self.job = job
        self.handle = handle
        self.is_withdrawn = False
        self._board = board
        self._status = status
        self._tracker = Guarded(make_part(job.config, "tracker"))
        self._is_started = False
        self._early_rows: list[Row] = []  # of an earlier attempt, while the job waits for its turn
        self._due = 0.0
        self._following = Following(job.run, handle, grace_seconds, [self._show], lambda _: None)

    def look(self, caught: Sequence[signal.Signals], seconds: float) -> Outcome | None:
        """Returns how the job ended, None when it has not within `seconds`."""
        outcome = self._following.look(() if self.is_withdrawn else caught, seconds)
        if outcome is None and not self._is_started and time.monotonic() >= self._due:
            self._due = time.monotonic() + _SECONDS_BETWEEN_STATES
            if self.handle.state() != "pending":
                self._start()
        return outcome

    def stop(self, reason: str | None) -> None:
        """Withdraws a job that waits; one that runs is asked to save and stop, unless a signal does (reason None)."""
        if self.handle.state() == "pending":
            self.is_withdrawn = True
            self.handle.cancel()
        elif reason:
            self._following.ask_to_stop(reason)

    def finish(self, outcome: Outcome) -> None:
        """Tells how the job ended; one that was withdrawn still waits."""
        if self._early_rows and not self.is_withdrawn:  # it came and went between two looks
            self._start()
        if self._is_started:
            self._tracker.finish(outcome.state)
        if self.is_withdrawn and outcome.state == "failed":
            with suppress(OSError):
                self.job.run.write_status(state="pending", exit_code=None, error=None)
        self._status.tell([self.job])
        self._board.end(self._status.of(self.job))

    def _start(self) -> None:
        self._is_started = True
        self._status.tell([self.job], state="running")
        self._board.start(self.job)
        self._tracker.start(self.job.run)
        for row in self._early_rows:
            self._show(row)
        self._early_rows = []

    def _show(self, row: Row) -> None:
        if not self._is_started:
            self._early_rows.append(row)
            return
        self._board.row(self.job, row)
        self._tracker.log(row)


def watch(
    watched: Sequence[Watched],
    caught: Sequence[signal.Signals],
    board: Board,
    grace_seconds: float,
    *,
    fail_fast: bool,
    leaves: bool = False,
) -> bool:
    """Returns, when all have ended, whether the sweep was to stop before its end.

    leaves: a signal leaves the jobs alone, and they go on without this process.
    """
    running, is_stopping = list(watched), False
    board.wait(len(running))
    while running:
        if caught and leaves:
            board.say(f"{caught[0].name}: {len(running)} jobs go on without this command")
            return True
        if caught and not is_stopping:
            is_stopping = True
            board.say(
                f"{caught[0].name}: no job starts any more; those that run end their step and save, {grace_seconds:.0f}"
                " s at most. Press Ctrl-C to end at once."
            )
            for each in running:
                each.stop(None)
        for each in list(running):
            outcome = each.look(caught, _SECONDS_BETWEEN_LOOKS / len(running))
            if outcome is None:
                continue
            running.remove(each)
            each.finish(outcome)
            if fail_fast and outcome.state == "failed" and not is_stopping:
                is_stopping = True
                board.say(f"sweep.fail_fast=true: {each.job.name} failed, the other jobs save and stop")
                for other in running:
                    other.stop(f"sweep.fail_fast=true, and {each.job.name} failed")
    return is_stopping
