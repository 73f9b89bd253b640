"""One run of one point: a real launch, and the metrics of its steps after the warm-up.

A run that was measured has a JSON file next to its folder, and is not run again. An interrupted one is repeated,
except a cluster job that is still running: the same launch follows it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from distft.config import ConfigError, compose
from distft.run import FINISHED, RunFolder, read_json, write_json
from distft.runtime.process import start_bound

Numbers = dict[str, Any]
_SUMMED = ("tokens", "target_tokens", "seconds")


class Failed(RuntimeError):
    """A run that could not be measured; the message is the reason."""


def measured(folder: Path, overrides: Sequence[str], warmup: int, threads: int | None) -> Numbers:
    """Returns the numbers of the run in `folder`, which is started unless it is complete; Failed with the reason."""
    known = folder.with_suffix(".json")
    if known.is_file():
        return read_json(known)
    run = RunFolder(folder)
    if folder.exists() and run.read_status()["state"] not in ("pending", "running"):
        shutil.rmtree(folder)
    _launch(run, [*overrides, f"name={folder.name}", f"runs_dir={folder.parent}"], threads)
    numbers = summary(list(run.read_metrics("train")), warmup)
    write_json(known, numbers)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    return numbers


def summary(rows: Sequence[Mapping[str, Any]], warmup: int) -> Numbers:
    """Returns the rates over all steps after the first `warmup`, the highest memory, and the other values of the rows.

    Seconds of phases are summed, also of those between two steps; `mfu` is averaged over the time.
    """
    kept = rows[warmup:]
    if not kept:
        raise Failed(f"{len(rows)} steps were trained, {warmup} of them for warm-up")
    found: Numbers = {name: sum(row[name] for row in kept) for name in _SUMMED}
    phases = [row.get(key) or {} for key in ("phases", "between") for row in kept]
    found["phases"] = {
        key: sum(each.get(key, 0.0) for each in phases) for key in dict.fromkeys(key for p in phases for key in p)
    }
    found["steps"] = len(kept)
    found["tokens_per_second"] = found["tokens"] / found["seconds"]
    found["peak_memory_gib"] = max(row["peak_memory_gib"] for row in kept)
    if all(row.get("mfu") is not None for row in kept):
        found["mfu"] = sum(row["mfu"] * row["seconds"] for row in kept) / found["seconds"]
    found["loss"] = mean(row["loss"] for row in kept)
    return found


def _launch(run: RunFolder, overrides: Sequence[str], threads: int | None) -> None:
    """Runs `python -m distft.launch` to its end; Failed with the reason when it does not complete."""
    try:
        compose(overrides)
    except ConfigError as error:
        raise Failed("; ".join(error.messages)) from error
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    log = run.path.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        process = start_bound(
            [sys.executable, "-m", "distft.launch", *overrides],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the launch gets it from the terminal too: it saves, or detaches
            process.wait()
            raise
    if code != 0 or run.read_status()["state"] not in FINISHED:
        raise Failed(_reason(run, code, log))


def _reason(run: RunFolder, code: int, log: Path) -> str:
    error = run.read_status()["error"]
    if error:
        first, *_ = error["message"].strip().splitlines() or [""]
        return f"{error['type']}: {first}, log {error['log'] or log}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1] if lines else 'no output'}, log {log}"
