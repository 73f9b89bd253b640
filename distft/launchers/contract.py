"""What every launcher offers: it starts frozen runs somewhere and tells how they ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distft.run import EXIT_HANG, EXIT_PREEMPTED, FINISHED, State
from distft.runtime.errors import HANG


@dataclass(frozen=True)
class Outcome:
    """How one attempt of a run ended."""

    state: State
    error: dict[str, Any] | None = None  # a distft.runtime.errors.Failure
    by_signal: int | None = None  # the signal after which the run was ended by force

    @property
    def exit_code(self) -> int:
        if self.by_signal is not None:
            return 128 + self.by_signal
        if self.state in FINISHED:
            return 0
        if self.error and self.error["type"] == HANG:
            return EXIT_HANG
        return EXIT_PREEMPTED if self.state == "preempted" else 1


class Handle(Protocol):
    """One submitted run."""

    name: str  # by which its place knows it: job 12
    is_part: bool  # another machine's launch has the run, and brings it to its end

    def state(self) -> State:
        """Returns what is known without waiting."""
        ...

    def wait(self, seconds: float) -> Outcome | None:
        """Returns how the run ended, or None when it has not ended within `seconds`."""
        ...

    def cancel(self) -> None:
        """Ends every process of the run at once, without a checkpoint."""
        ...


class Launcher(Protocol):
    """A place where runs can run."""

    wait: bool  # False: the launching command returns as soon as the run is under way
    grace_seconds: float  # from the request to stop to the end by force

    outlives_launch: bool  # whether its runs go on when the launching process ends

    def submit(self, run_dirs: Sequence[Path]) -> Sequence[Handle]:
        """Starts, or queues, the attempt that each run's status.json names; ValueError when it is refused."""
        ...

    def find(self, run_dir: Path) -> Handle | None:
        """Returns the run where an earlier launch's attempt of it is still under way."""
        ...
