"""The data stage as a command: fetches what is on the hub, and makes token shards of the rows, once per content.

Runs before the processes that train, without an accelerator and without collectives: whatever is wrong with the data is
said here, not on a machine that was waited for.
"""

import time

from rich.console import Console

from distft.config import command, compose
from distft.data.ready import make_ready
from distft.data.report import summary

SLOW_SECONDS = 2.0


def main(overrides: list[str]) -> int:
    """Prepares model, tokenizer and data of a config, or says everything that is wrong with them (exit code 2)."""
    values = compose(overrides).values
    started = time.monotonic()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    prepared = make_ready(values, _Progress(console))
    how = "was there already" if prepared.reused else f"took {time.monotonic() - started:.1f} s"
    console.print(f"prepared data {prepared.folder.name} {how}", markup=False)
    for line in summary(prepared.report, prepared.folder):
        console.print(f"  {line}", markup=False)
    return 0


class _Progress:
    """One line on a terminal once the work turns out to be slow."""

    def __init__(self, console: Console) -> None:
        self.console, self.started, self.shown = console, time.monotonic(), 0.0

    def __call__(self, rows: int) -> None:
        now = time.monotonic()
        if not self.console.is_terminal or now - self.started < SLOW_SECONDS or now - self.shown < 0.2:
            return
        self.shown = now
        self.console.print(f"preparing: {rows:,} rows read, {rows / (now - self.started):,.0f} rows/s", end="\r")


if __name__ == "__main__":
    command(main)
