"""The data stage as a command: fetches what is on the hub, and makes token shards of the rows, once per content.

Runs before the processes that train, without an accelerator and without collectives: whatever is wrong with the data is
said here, not on a machine that was waited for.
"""

import time
from typing import Any

from rich.console import Console

from distft.config import ConfigError, command, compose
from distft.data.hub import dataset_commit, fetch
from distft.data.key import own_eval
from distft.data.report import refused, summary
from distft.data.sources import find_sources
from distft.data.stage import Prepared, prepare_data

SLOW_SECONDS = 2.0


def main(overrides: list[str]) -> int:
    """Prepares model, tokenizer and data of a config, or says everything that is wrong with them (exit code 2)."""
    values = compose(overrides, to_run=False).values
    started = time.monotonic()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    prepared = prepare(values, console)
    how = "was there already" if prepared.reused else f"took {time.monotonic() - started:.1f} s"
    console.print(f"prepared data {prepared.folder.name} {how}", markup=False)
    for line in summary(prepared.report, prepared.folder):
        console.print(f"  {line}", markup=False)
    return 0


def prepare(values: dict[str, Any], console: Console | None = None) -> Prepared:
    """Returns data that is ready to train on; ConfigError where rows, tokenizer or hub refuse, or a threshold does."""
    try:
        fetch_from_hub(values)
        prepared = prepare_data(values, _Progress(console or Console(stderr=True)))
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError([str(error)]) from error
    if reasons := refused(prepared.report, values["data"]):
        raise ConfigError([*reasons, *_bad_rows(prepared)])
    return prepared


def fetch_from_hub(values: dict[str, Any]) -> None:
    """Brings here, at a commit that is written down, what the config names on the hub; RuntimeError where it cannot."""
    model, data, cache_dir = values["model"], values["data"], values["cache_dir"]
    if not model["tiny"]:
        fetch(model["path"], model["revision"], cache_dir)
    if model["tokenizer"]:
        fetch(model["tokenizer"], None, cache_dir, weights=False)
    for key in ("train", "eval") if own_eval(data) else ("train",):
        for source in find_sources(f"data.{key}", data[key], data):
            if source.hub_id:
                dataset_commit(source.hub_id, source.revision, cache_dir, ask=True)


def _bad_rows(prepared: Prepared) -> list[str]:
    """Returns the first bad rows and where all are listed."""
    streams = prepared.report["streams"].values()
    first = [line for stream in streams for line in stream["first_bad"]]
    more = sum(stream["bad"] for stream in streams) - len(first)
    return first + ([f"and {more} more, all in {prepared.folder / 'bad_rows.txt'}"] if more else [])


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
