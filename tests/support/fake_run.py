"""Frozen runs of the fake worker, and checks for leftover processes."""

import os
import time
from pathlib import Path
from typing import Any

import yaml

from distft.run import Plan, RunFolder, write_json


def freeze(path: Path, processes: int = 2, steps: int = 5, nodes: int = 1, **config: Any) -> RunFolder:
    """Returns a run folder as launch leaves it before submitting; `config` controls the fake worker."""
    run = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    numbers = {"nodes": nodes, "processes_per_node": processes, "world": nodes * processes, "steps": steps}
    write_json(run.plan, dict.fromkeys(Plan.__dataclass_fields__, 0) | numbers)
    run.config.write_text(yaml.safe_dump({"steps": steps, "train": {"max_steps": steps, "epochs": None}, **config}))
    run.write_status(state="pending", attempt=run.read_status()["attempt"] + 1, exit_code=None, error=None)
    return run


def processes_of(run: RunFolder) -> set[int]:
    """Returns the live processes that name the run's folder on their command line or write to a log in it.

    Excludes this process and its fork server, which outlives the run.
    """
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            log = os.readlink(folder / "fd" / "2")
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        pid, is_its = int(folder.name), os.fsencode(run.path) in words or Path(log).is_relative_to(run.path)
        is_own = pid == os.getpid() or (int(parent) == os.getpid() and name_of(pid) == "fork server")
        if is_its and state not in "ZX" and not is_own:
            found.add(pid)
    return found


def name_of(pid: int) -> str:
    """Returns the name of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def rank_process(run: RunFolder, rank: int) -> int:
    """Returns the process of a rank as soon as it has begun."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in processes_of(run):
            if name_of(process) == f"rank {rank}":
                return process
        time.sleep(0.02)
    raise AssertionError(f"rank {rank} did not start")


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
