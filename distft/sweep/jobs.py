"""The jobs of a sweep: ordinary runs, whose configs are composed, checked and planned like those of a single run.

All jobs are checked before the first is submitted. All errors are reported at once, each with the jobs it applies to.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distft.config.compose import Config, compose
from distft.config.errors import ConfigError
from distft.config.key import at
from distft.config.overrides import quoted
from distft.launch.history import Own, check_config, is_done, keep_frozen, kept_rows, own_of
from distft.launch.stages import plan_run, prepare, refuse_secrets
from distft.run import Plan, RunFolder
from distft.sweep.request import Point, Request
from distft.trackers.terminal import screen

_LONGEST_NAME = 120  # bytes
_MAX_NAMED = 3  # jobs listed before a message


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    run: RunFolder
    point: Point
    overrides: tuple[str, ...]
    config: Config
    own: Own | None = None  # kept from an earlier start
    plan: Plan | None = None  # None: not planned yet, or already finished

    @property
    def name(self) -> str:
        return self.run.path.name

    def value(self, key: str) -> Any:
        """Returns the job's value of a key, or its choice of a group."""
        return self.config.choices[key] if key in self.config.choices else at(self.config.values, key)

    @property
    def is_done(self) -> bool:
        return is_done(self.run, self.config)

    @property
    def has_failed(self) -> bool:
        return self.run.read_status()["state"] == "failed"

    @property
    def objective(self) -> float | None:
        """The best value of eval.metric so far; None without an evaluation."""
        selection = self.config.eval.selection
        values = selection.values(list(self.run.read_metrics("eval")))
        step = selection.best_step(values)
        return None if step is None else values[step]


def named(points: Iterable[Point], first: int = 0, earlier: Mapping[str, Point] | None = None) -> dict[str, Point]:
    """Returns the points by their folder names, NNN-key_value-key_value; existing folders keep their names.

    earlier: points of an earlier start by name; other versions may have used different names.
    """
    existing = {int(name.partition("-")[0]): (name, point) for name, point in (earlier or {}).items()}
    found = {}
    for index, point in enumerate(points, first):
        name, before = existing.get(index, ("", None))
        found[name if before == point else f"{index:03}-{words(point)}"] = point
    return found


def words(point: Point) -> str:
    """Returns key_value-key_value in characters that are safe in paths and URLs; a long name is truncated."""
    text = "-".join(part.lstrip("+").replace("=", "_", 1).replace("'", "").replace('"', "") for part in point)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LONGEST_NAME].rstrip("-.")


def _older_words(point: Point) -> str:
    """Returns key=value,..., the folder names of older versions."""
    text = ",".join(part.lstrip("+").replace("'", "").replace('"', "") for part in point)
    fine = "".join(letter if letter.isprintable() and letter not in "/\\" else "-" for letter in text)
    return fine.encode()[:_LONGEST_NAME].decode(errors="ignore")


def earlier_points(folder: Path, keys: Sequence[str]) -> dict[str, Point]:
    """Returns the points in a sweep folder by name, in order; ConfigError when they have different keys."""
    found = {}
    files = folder.glob("[0-9][0-9][0-9]*-*/command.txt")
    for file in sorted(files, key=lambda file: int(file.parent.name.partition("-")[0])):
        name, given = file.parent.name, {}
        for text in (RunFolder(file.parent).read_commands() or [[]])[-1]:
            given[text.partition("=")[0].lstrip("+")] = text
        point = tuple(given.get(key, "") for key in keys)
        if not name.endswith((f"-{words(point)}", f"-{_older_words(point)}".rstrip(" ."))):
            raise ConfigError([f"name={folder.name}: {file.parent} belongs to another sweep. Try: another name"])
        found[name] = point
    return found


def make_jobs(folder: Path, request: Request, points: Mapping[str, Point]) -> list[Job]:
    """Returns a composed job for each name and point; ConfigError with the errors of all jobs."""
    jobs, errors = [], JobErrors()
    for name, point in points.items():
        runs_dir = quoted(str(folder)) if "," in str(folder) else folder
        overrides = (*request.of_job(point), f"runs_dir={runs_dir}", f"name={quoted(name)}")
        try:
            config = compose(overrides, sweep=True, kept=kept_rows)
            refuse_secrets(config)
            run = RunFolder(folder / name)
            config = keep_frozen(run, config, sweep=True)[0]
            own = own_of(run, config)
            jobs.append(Job(run, point, overrides, config.with_values(own.values) if own else config, own))
        except ConfigError as error:
            errors.add(name, error.messages)
    errors.raise_any()
    return jobs


def refuse_duplicates(jobs: Sequence[Job]) -> None:
    """Raises ConfigError when two jobs are the same run or have different launchers."""
    errors: list[str] = []
    seen: dict[str, Job] = {}
    for job in jobs:
        first = seen.setdefault(identity(job), job)
        if first is not job:
            errors.append(f"{job.name} is the same run as {first.name}. Try: each value once")
        if job.config.values["launcher"] != jobs[0].config.values["launcher"]:
            errors.append(f"{job.name} has another launcher than {jobs[0].name}. Try: one launcher for all jobs")
    if errors:
        raise ConfigError(errors)


def identity(job: Job) -> str:
    """Returns a job's config without its name; equal for jobs that are the same run."""
    values: Mapping[str, Any] = {key: value for key, value in job.config.values.items() if key != "name"}
    return json.dumps(values, sort_keys=True, default=str)


def prepare_all(jobs: Sequence[Job]) -> None:
    """Prepares the data of all jobs, equal data once; exits after all were prepared when one failed."""
    codes: dict[str, int] = {}
    for job in jobs:
        reads = json.dumps([job.config.values[group] for group in ("data", "model")], sort_keys=True, default=str)
        if codes.get(reads) or job.is_done:
            continue
        try:
            codes[reads] = 0
            prepare(job.config, job.overrides, job.own)
        except SystemExit as end:
            codes[reads] = end.code if isinstance(end.code, int) else 1
            screen(sys.stderr).print(f"{job.name} and all jobs with the same data cannot run")
    if code := max(codes.values(), default=0):
        sys.exit(code)


def plan_all(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs, unfinished ones with their plans; ConfigError with the errors of all jobs."""
    planned, errors = [], JobErrors()
    for job in jobs:
        try:
            check_config(job.run, job.config)
            planned.append(job if job.is_done else replace(job, plan=plan_run(job.run, job.config, job.own)))
        except ConfigError as error:
            errors.add(job.name, error.messages)
    errors.raise_any()
    return planned


class JobErrors:
    """Error messages of jobs; equal messages are merged, with the names of their jobs."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[str]] = {}

    def add(self, name: str, messages: Iterable[str]) -> None:
        for message in messages:
            self._jobs.setdefault(message.replace(name, "NAME"), []).append(name)

    def messages(self) -> list[str]:
        return [f"{_named(names)}: {text.replace('NAME', names[0])}" for text, names in self._jobs.items()]

    def raise_any(self) -> None:
        if self._jobs:
            raise ConfigError(self.messages())


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMED
    return "; ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
