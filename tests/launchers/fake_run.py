"""Frozen runs of the fake worker, and a look at which processes are left."""

import os
import time
from pathlib import Path
from typing import Any

import yaml

from distft.run import Plan, RunFolder, write_json


def freeze(path: Path, processes: int = 2, steps: int = 5, nodes: int = 1, **config: Any) -> RunFolder:
    """Returns a run folder as launch leaves it before submitting; `config` tells the fake worker what to do."""
    run = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    numbers = {"nodes": nodes, "processes_per_node": processes, "world": nodes * processes, "steps": steps}
    write_json(run.plan, dict.fromkeys(Plan.__dataclass_fields__, 0) | numbers)
    run.config.write_text(yaml.safe_dump({"steps": steps, **config}))
    run.write_status(state="pending", attempt=run.read_status()["attempt"] + 1, exit_code=None, error=None)
    return run


def processes_of(run: RunFolder) -> set[int]:
    """Returns the live processes that have the run's folder on their command line, the caller left out."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if os.fsencode(run.path) in words and not dead and int(folder.name) != os.getpid():
            found.add(int(folder.name))
    return found


def wait_for_rows(run: RunFolder) -> None:
    """Returns once the run has made a step."""
    deadline = time.monotonic() + 60
    while not list(run.read_metrics()):
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.1)


def assert_none_left(run: RunFolder, seconds: float = 60) -> None:
    """Fails unless all processes of the run are gone within `seconds`."""
    deadline = time.monotonic() + seconds
    while processes_of(run):
        assert time.monotonic() < deadline, f"left behind: {processes_of(run)}"
        time.sleep(0.1)
