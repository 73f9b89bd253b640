"""Benchmarks of a run's checkpoints (eval.benchmarks), measured next to its training: it neither waits for them nor
fails by them.

On this machine they follow the training. Under SLURM a process on the job's first node submits a job of its own for
each checkpoint as soon as it is saved. `python -m distft.launch.benchmarks RUN` is that process, `... RUN AT` such a
job.

Trap: rank 0 appends to metrics.jsonl, and on a shared disk two writers overwrite each other's lines. So the rows of
benchmarks are added while no rank runs, from the results in RUN/eval, also those that a resumed attempt has dropped.
"""

import fcntl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distft.config import Config, ConfigError, read_config
from distft.config.errors import Unavailable
from distft.launch.command_job import job_of, submit_program
from distft.launch.stages import Command
from distft.run import BENCHMARK, FINISHED, MetricsRow, RunFolder, read_json, row_text
from distft.runtime.logs import last_lines
from distft.trackers.terminal import screen

_SECONDS_BETWEEN_LOOKS = 10.0
Json = Mapping[str, Any]  # metrics.json of an evaluation


def last_checkpoint(run: RunFolder, config: Config) -> Path | None:
    """Returns the checkpoint that a finished run is judged by: the one that it exports; None without any."""
    wanted = "best" if config.export.at == "best" else "latest"
    links = [run.checkpoints / name for name in dict.fromkeys((wanted, "latest"))]
    return next((link.resolve() for link in links if (link / "manifest.json").is_file()), None)


def saved_checkpoints(run: RunFolder, config: Config) -> list[Path]:
    """Returns the checkpoints at multiples of eval.benchmarks_every_steps that are committed."""
    every = config.eval.benchmarks_every_steps
    steps = range(every, run.read_status()["step"] + 1, every) if every else ()
    folders = [run.checkpoints / f"step-{step:08d}" for step in steps]
    return [folder for folder in folders if (folder / "manifest.json").is_file()]


def due(run: RunFolder, config: Config, *, is_done: bool) -> list[Path]:
    """Returns the checkpoints to measure that have no results yet, the last one too once the run is done."""
    last = last_checkpoint(run, config) if is_done else None
    found = [*saved_checkpoints(run, config), *([last] if last else [])] if config.eval.benchmarks else []
    return [folder for folder in dict.fromkeys(found) if not is_measured(run, config, folder.name)]


def is_measured(run: RunFolder, config: Config, at: str) -> bool:
    there = results_of(run, at).get("benchmarks") or {}
    return set(config.eval.benchmarks) <= there.keys()


def results_of(run: RunFolder, at: str) -> Json:
    file = run.eval / at / "metrics.json"
    return read_json(file) if file.is_file() else {}


def words_of(run: RunFolder, config: Config, at: str, *, is_last: bool) -> list[str]:
    """Returns the arguments of the `distft evaluate` that measures a checkpoint; the last one is compared with the
    base."""
    settings = config.eval
    words = [f"run={run.path}", f"at={at}", f"tasks=[{','.join(settings.benchmarks)}]"]
    words += [f"task_path={settings.benchmarks_path}"] if settings.benchmarks_path else []
    words += [f"limit={settings.benchmarks_limit}"] if settings.benchmarks_limit else []
    return words + (["against=base"] if is_last else [])


def measure(run: RunFolder, config: Config, at: str) -> bool:
    """Measures a checkpoint by a process of its own; returns False after printing why that failed."""
    last = last_checkpoint(run, config)
    words = words_of(run, config, at, is_last=last is not None and last.name == at)
    log = run.logs / f"benchmarks-{at}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = Command("evaluate", *words, log=log)
    if not (code := command.wait()):
        return True
    cause = next((line.strip() for line in reversed(last_lines(log, 20)) if line.strip()), f"it ended with code {code}")
    again = " ".join(f"'{word}'" if "[" in word else word for word in words)
    screen(sys.stderr).print(f"{run.path.name}: benchmarks of {at} failed: {cause}\nTry: distft evaluate {again}")
    return False


def measure_here(run: RunFolder, config: Config) -> None:
    """Measures what is due of a finished run on this machine, and reports it again."""
    measured = [measure(run, config, folder.name) for folder in due(run, config, is_done=True)]
    if any(measured):
        add_rows(run)
        report_again(run)


def report_again(run: RunFolder) -> None:
    """Writes the report with the benchmarks; a failure is left to the next `distft report`."""
    if (run.path / "report.html").is_file():
        Command("report", f"run={run.path}", log=run.logs / "report.log").wait()


def rows_of(run: RunFolder) -> list[MetricsRow]:
    """Returns the rows of metrics.jsonl for all measured checkpoints: step, split and `task/metric`, by step.

    The row of step 0 is the base, from a comparison with it.
    """
    found: dict[int, dict[str, float]] = {}
    for file in sorted(run.eval.glob("step-*/metrics.json")):
        content = read_json(file)
        for task, each in (content.get("benchmarks") or {}).items():
            for metric, numbers in each["metrics"].items():
                name, against = f"{task}/{metric}", (content.get("against") or {}).get(f"{task}/{metric}")
                found.setdefault(content["step"], {})[name] = numbers["value"]
                if against and (content.get("against_model") or {}).get("name", "").endswith(" at base"):
                    found.setdefault(0, {})[name] = against["theirs"]
    return [{"step": step, "split": BENCHMARK, **values} for step, values in sorted(found.items())]


def add_rows(run: RunFolder) -> None:
    """Adds the rows that metrics.jsonl lacks, unless a rank may write there now."""
    with _alone(run):
        if run.read_status()["state"] in ("pending", "running"):
            return
        there = [{key: value for key, value in row.items() if key != "time"} for row in run.read_metrics(BENCHMARK)]
        missing = [row for row in rows_of(run) if row not in there]
        if missing:
            with run.metrics.open("a") as file:
                file.writelines(row_text(row) + "\n" for row in missing)


@contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    run.eval.mkdir(parents=True, exist_ok=True)
    with (run.eval / ".benchmarks.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def submit_due(run: RunFolder, config: Config, *, is_done: bool) -> None:
    """Submits a job for each checkpoint that is due and has none yet; ConfigError or Unavailable if SLURM refuses."""
    for folder in due(run, config, is_done=is_done):
        job = run.path / "jobs" / f"benchmarks-{folder.name}"
        if job.exists():  # submitted by an earlier attempt, or queued
            continue
        of = job_of(config, run.read_plan(), config, [])
        handle = submit_program(["distft.launch.benchmarks", str(run.path), folder.name], job, of)
        print(f"{handle.name} measures the benchmarks of {folder.name}", file=sys.stderr, flush=True)


def submit_or_say(run: RunFolder, config: Config, *, is_done: bool) -> bool:
    """Submits what is due; returns False after printing why that is not possible, which the run goes on without."""
    try:
        submit_due(run, config, is_done=is_done)
    except (ConfigError, Unavailable, OSError) as error:
        print(
            f"benchmarks are not submitted: {error}. Try: distft evaluate launcher=slurm", file=sys.stderr, flush=True
        )
        return False
    return True


def main(arguments: list[str]) -> int:
    """Watches a run's checkpoints until it is killed with its parent; with AT, measures one as a job."""
    run = RunFolder(Path(arguments[0]))
    config = read_config(run)
    if len(arguments) > 1:
        if not measure(run, config, arguments[1]):
            return 1
        add_rows(run)
        if run.read_status()["state"] in FINISHED:
            report_again(run)
        return 0
    while submit_or_say(run, config, is_done=False):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
