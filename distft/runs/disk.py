"""What runs hold on the disk, and how one is deleted: never one that is in use."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from distft.config import ConfigError
from distft.config.command import another
from distft.launchers.slurm.job import find_job
from distft.run import RunFolder
from distft.runs.facts import SILENT_SECONDS, find_runs
from distft.runtime.disk import alone, sync

PARTS = ("checkpoints", "final", "eval", "logs")  # folders of a run; all others are `other`
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_in_words(size: float) -> str:
    """Returns a number of bytes as text: 1.2 GiB."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def sizes(run: RunFolder) -> dict[str, int]:
    """Returns the bytes that a run takes on the disk by part, each file once."""
    seen = set[tuple[int, int]]()
    found: dict[str, int] = dict.fromkeys((*PARTS, "other"), 0)
    for entry in run.path.iterdir():
        part = entry.name if entry.name in PARTS else "other"
        found[part] += sum(_taken(file, seen) for file in _files(entry))
    return found


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for folder, _, names in os.walk(path):
            yield from (Path(folder) / name for name in names)
    else:
        yield path


def _taken(file: Path, seen: set[tuple[int, int]]) -> int:
    """Returns the bytes that a file takes; 0 for one that was counted under another name, or is being deleted."""
    try:
        stat = file.lstat()
    except FileNotFoundError:
        return 0
    key = (stat.st_dev, stat.st_ino)
    if key in seen:
        return 0
    seen.add(key)
    return stat.st_blocks * 512


def usage_table(folder: Path, used: dict[str, dict[str, int]]) -> Table:
    """Returns a table of what each run takes, the largest first.

    used: name -> bytes by part.
    """
    total = size_in_words(sum(sum(each.values()) for each in used.values()))
    table = Table(title=f"{total} in {len(used)} run{'s' * (len(used) != 1)} of {folder}", title_justify="left")
    columns = [part for part in (*PARTS, "other") if any(each[part] for each in used.values())]
    for title in ("run", *columns, "total"):
        table.add_column(title, justify="left" if title == "run" else "right")
    for name, each in sorted(used.items(), key=lambda item: -sum(item[1].values())):
        parts = [size_in_words(each[part]) if each[part] else "" for part in columns]
        table.add_row(name, *parts, size_in_words(sum(each.values())))
    return table


def to_delete(folder: Path) -> list[RunFolder]:
    """Returns the runs that go with `folder`: itself, or the jobs of the sweep there.

    ConfigError where it is neither, a link, or in use; Unavailable where SLURM does not say whether a job uses it.
    """
    if folder.is_symlink():
        raise ConfigError([f"run={folder}: is a link to {folder.resolve()}. Try: that folder, or rm of the link"])
    run = RunFolder(folder)
    if run.config.is_file() and run.plan.is_file():
        runs = [run]
    elif (folder / "sweep_status.json").is_file():
        with _unused(folder):
            runs = find_runs(folder)
    else:
        raise ConfigError([f"run={folder}: holds no run and no sweep.{another(folder, run.config.name)}"])
    for each in runs:
        _refuse_in_use(each)
    return runs


def refuse_job_of_sweep(folder: Path) -> None:
    """Raises ConfigError for a job of a sweep, whose table needs it."""
    if (folder.parent / "sweep_status.json").is_file():
        rule = f"is a job of the sweep {folder.parent}, whose table would miss it"
        raise ConfigError([f"run={folder}: {rule}. Try: only=checkpoints, or the sweep"])


@contextmanager
def _unused(folder: Path) -> Iterator[None]:
    """Keeps launches out of a run or a sweep; ConfigError where one uses it."""
    with alone(folder / ".lock") as held:
        if not held:
            raise ConfigError([f"run={folder}: a launch uses it. Try: distft runs stop run={folder}, then this again"])
        yield


def _refuse_in_use(run: RunFolder) -> None:
    """Raises ConfigError where a launch, a job or a process of another machine uses the run."""
    with _unused(run.path):
        pass
    status, stop = run.read_status(), f"Try: distft runs stop run={run.path}, then this again"
    if job := find_job(run):
        raise ConfigError([f"run={run.path}: job {job} uses it. {stop}"])
    if run.plan.is_file() and run.read_plan().is_hosted and status["exit_code"] is None and status["state"]:
        raise ConfigError([f"run={run.path}: a hosted job uses it. {stop}"])
    silent = time.time() - status.get("time", 0.0)
    if status["state"] == "running" and silent < SILENT_SECONDS:
        raise ConfigError(
            [f"run={run.path}: a process on {status.get('host')} wrote into it {silent:.0f} s ago. {stop}"]
        )


def delete(folder: Path, paths: Sequence[Path]) -> None:
    """Deletes folders of a run or sweep, or that itself: each disappears at once, and its bytes then.

    ConfigError where a launch began meanwhile, or the disk refuses it.
    """
    try:
        with _unused(folder):
            for path in paths:
                gone = path.with_name(f".{path.name}.deleted-{os.getpid()}")
                os.replace(path, gone)
                sync(path.parent)
                shutil.rmtree(gone)
    except OSError as error:
        raise ConfigError([f"run={folder}: {error.filename} cannot be deleted: {error.strerror}"]) from error
