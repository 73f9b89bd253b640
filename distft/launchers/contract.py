"""What every launcher offers: it starts frozen runs and reports their outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from distft.run import EXIT_HANG, EXIT_PREEMPTED, FINISHED, State
from distft.runtime.errors import HANG


@dataclass(frozen=True)
class Outcome:
    """How one attempt of a run ended."""

    state: State
    error: Mapping[str, Any] | None = None  # a distft.runtime.errors.Failure
    by_signal: int | None = None  # the signal after which the run was killed

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

    name: str  # for the user: job 12
    is_part: bool  # another machine's launch owns the run and finishes it

    def state(self) -> State:
        """Returns the state as far as it is known, without waiting."""
        ...

    def wait(self, seconds: float) -> Outcome | None:
        """Returns how the run ended, or None when it has not ended within `seconds`."""
        ...

    def cancel(self) -> None:
        """Kills every process of the run, without a checkpoint."""
        ...


@runtime_checkable
class Repeatable(Protocol):
    """A handle of a run that this process can restart."""

    def start_again(self) -> None:
        """Starts the attempt in status.json after the previous one has ended."""
        ...


class Launcher(Protocol):
    """A place where runs are executed: this machine or a cluster.

    It is built with the keys of its section that its constructor takes, as keywords or as one dataclass. Keys that
    other programs read (`config.parts.SHARED_KEYS`) are valid for every launcher and are not passed to it.
    """

    outlives_launch: bool  # whether its runs go on when the launching process ends
    is_hosted: bool  # whether others train the model: no machine, no checkpoints, no weights here

    def submit(self, run_dirs: Sequence[Path]) -> Sequence[Handle]:
        """Starts or queues the attempt in each run's status.json; ValueError when it is refused."""
        ...

    def find(self, run_dir: Path) -> Handle | None:
        """Returns the handle of an attempt that an earlier launch started and that still runs."""
        ...
