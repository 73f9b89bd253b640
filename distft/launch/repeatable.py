"""The handle of a run that this process can start again."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Repeatable(Protocol):
    """A handle of a run that this process can restart."""

    def start_again(self) -> None:
        """Starts the attempt in status.json after the previous one has ended."""
        ...
