"""How long a rank may be silent before it counts as hung: what the config says, else told from its own steps."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from distft.runtime.heartbeat import OUTSIDE, Beat

FLOOR_SECONDS = 300.0  # a shared disk may be silent for minutes
STEPS_LONG = 10  # a silence of so many median steps is none of a healthy step
OUTSIDE_SECONDS = 1800.0
_FIRST_STEPS = 3  # which compile, warm up and read for the first time
_STEPS_REMEMBERED = 101


@dataclass(frozen=True)
class Limits:
    """launcher.hang_seconds and launcher.hang_seconds_outside."""

    step: float | None = None  # None: told from the median step
    outside: float = OUTSIDE_SECONDS  # of steps: start, save, evaluate; 0: nobody watches

    @classmethod
    def of(cls, launcher: Mapping[str, Any]) -> "Limits":
        """Returns those of a frozen config; one of an older version has none."""
        return cls(launcher.get("hang_seconds"), launcher.get("hang_seconds_outside", OUTSIDE_SECONDS))


class StepSeconds:
    """The steps of one attempt, and what a rank's silence may be measured by."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._last_step: int | None = None
        self._seconds: deque[float] = deque(maxlen=_STEPS_REMEMBERED)

    def see(self, beat: Beat) -> None:
        if beat.step_seconds and beat.step != self._last_step:
            self._last_step = beat.step
            self._seconds.append(beat.step_seconds)

    def limit(self, phase: str) -> tuple[float, str]:
        """Returns the seconds that a rank may be silent in `phase`, infinite without a limit, and where from."""
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
