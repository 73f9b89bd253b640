"""health.json: how the ranks of a running attempt get on, for whoever looks at the run folder.

One node writes it for all, a few times a minute; `python -m distft.runs show` reads it.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from distft.launchers.silence import Ranks
from distft.run import RunFolder, write_json
from distft.runtime.heartbeat import Beat

Row = dict[str, Any]
_LEAST_STEPS = 16  # that seconds are a mean of, once there are so many


class Health:
    """What the ranks of one node did since it was last asked."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._before: dict[int, Beat] = {}
        self._spent: dict[int, dict[str, float]] = {}

    def rows(self) -> list[Row]:
        """Returns a row for each rank: where it is, and the seconds a step that it spent in each phase of late."""
        rows = []
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


def write_health(run: RunFolder, attempt: int, rows: Sequence[Row]) -> None:
    """Replaces health.json; a full disk is not the ranks' trouble."""
    with suppress(OSError):
        write_json(run.health, {"time": time.time(), "attempt": attempt, "ranks": list(rows)})
