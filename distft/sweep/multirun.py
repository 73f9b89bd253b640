"""A sweep from its command line to its exit code: everything is checked and planned before the first job starts."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override as Swept
from hydra.types import HydraContext
from omegaconf import OmegaConf
from rich.table import Table

from distft.compat.hydra import no_callbacks
from distft.config.compose import Config, compose
from distft.config.errors import ConfigError
from distft.launch.frozen import kept_rows
from distft.launch.stages import check_devices, check_writable, go_on_in_background, make_part, with_name, write_results
from distft.launchers.contract import Launcher
from distft.launchers.follow import caught_signals
from distft.plan import make_plan
from distft.plan.show import UNITS, fits_in_words, unit_of
from distft.run import EXIT_PREEMPTED, EXIT_WRONG_CONFIG, FINISHED, Plan, RunFolder
from distft.runtime.disk import alone
from distft.runtime.environment import redact
from distft.runtime.process import start_bound
from distft.sweep.board import Board, SweepStatus, failures, table
from distft.sweep.jobs import Job, Wrong, earlier_points, make_jobs, named, plan_all, prepare_all, refuse_twins, words
from distft.sweep.request import Point, Request, config_loader, corners, parse, read_request
from distft.sweep.submission import Left, Stopped, Submission
from distft.trackers.terminal import screen

_WIDTH = 200  # of a table in a file
_MOST_LOOKED_AT = 200  # points, for their errors, when the first is wrong


@dataclass(frozen=True)
class Sweep:
    """What is known before the first job starts."""

    folder: Path
    request: Request
    config: Config  # of the first point, with the sweep's own keys
    earlier: Mapping[str, Point]  # of an earlier start, by the names of their folders
    jobs: Sequence[Job]  # all of a grid; of a search those of an earlier start

    @property
    def export(self) -> bool | None:
        """Returns whether all jobs are exported or none; None for the best alone."""
        return self.config.export.enabled if self.request.says_export else None


def multirun(overrides: list[str]) -> int:
    """Returns 0 when all jobs completed, 75 when a signal stopped the sweep (the same command continues it), else 1."""
    request = read_request(overrides)
    parsed = parse(request.swept)
    config = shared_config(request, parsed)
    launcher, sweeper = make_part(config, "launcher"), make_part(config, "sweep")
    run, config = with_name(config)
    folder = run.path
    check_writable(folder.parent)
    check_devices(config)
    if run.config.is_file():
        raise ConfigError([f"name={folder.name}: {folder} holds a run. Try: another name"])
    earlier = earlier_points(folder, request.keys)
    known, further = sweeper.points(parsed, earlier)
    sweep = Sweep(folder, request, config, earlier, checked(folder, request, known, further, earlier))
    if config.sweep.only_failed and not any(job.has_failed for job in sweep.jobs):
        raise ConfigError([f"sweep.only_failed=true: no job in {folder} has failed. Try: false"])
    status = SweepStatus(folder, sweep_command(overrides), request.keys, config.choices["sweep"])
    with alone(folder / ".lock") as held:
        if not held:
            raise ConfigError([f"name={folder.name}: another launch is busy with {folder}. Try: another name"])
        status.tell(sweep.jobs)
        alone_from_here = not launcher.wait and not launcher.outlives_launch
        if alone_from_here and go_on_in_background(folder, folder / "sweep.log", "kill -INT PID"):
            return 0
        try:
            by_signal = run_jobs(sweep, launcher, sweeper, status)
        except Left:
            return 0
        return finish(sweep, status, by_signal=by_signal)


def sweep_command(overrides: Sequence[str]) -> str:
    """Returns the command line of the sweep, secrets blanked."""
    return redact(shlex.join(["python", "-m", "distft.launch", "-m", *overrides]))


def shared_config(request: Request, parsed: Sequence[Swept]) -> Config:
    """Returns the config of the sweep, which is its first point's; ConfigError with what is wrong with any point."""
    overrides = (*request.shared, *request.own, *corners(parsed, most=1)[0])
    try:
        return compose(overrides, sweep=True, kept=kept_rows)
    except ConfigError as error:
        wrong = Wrong()
        for point in corners(parsed, _MOST_LOOKED_AT):
            try:
                compose(request.of_job(point), sweep=True, kept=kept_rows)
            except ConfigError as other:
                wrong.add(words(point), [each for each in other.messages if each not in error.messages])
        raise ConfigError([*error.messages, *wrong.messages()]) from error


def checked(
    folder: Path,
    request: Request,
    known: Sequence[Point],
    further: Sequence[Point],
    earlier: Mapping[str, Point],
    first: int = 0,
) -> list[Job]:
    """Returns the known jobs, prepared and planned; further points are held to the same, and left."""
    jobs = make_jobs(folder, request, named(known, first, earlier))
    others = make_jobs(folder, request, {words(point): point for point in further})
    refuse_twins(jobs)
    prepare_all([*jobs, *others])
    return plan_all([*jobs, *others])[: len(jobs)]


def run_jobs(sweep: Sweep, launcher: Launcher, sweeper: Any, status: SweepStatus) -> bool:
    """Lets Hydra's sweeper go through its points; returns whether a signal stopped it."""
    at_hand = {job.point: job for job in sweep.jobs}
    console, settings, swept = screen(sys.stderr), sweep.config.sweep, list(sweep.request.swept)

    def make(points: Sequence[Point], first: int) -> list[Job]:
        if all(point in at_hand for point in points):
            return [at_hand[point] for point in points]
        return checked(sweep.folder, sweep.request, points, [], sweep.earlier, first)

    count = settings.trials or len(sweep.jobs)
    console.print(f"{sweep.folder}: a sweep of {', '.join(sweep.request.keys)}, {count} jobs")
    with caught_signals() as caught, Board(console) as board:
        submission = Submission(
            make,
            launcher,
            status,
            board,
            caught,
            only_failed=settings.only_failed,
            fail_fast=settings.fail_fast,
        )
        sweeper.begin(submission, sweep.earlier, sweep.config.launcher.jobs_at_once or 1)
        about = {"mode": "MULTIRUN", "sweep": {"dir": str(sweep.folder)}, "overrides": {"task": swept}}
        sweeper.setup(
            hydra_context=HydraContext(config_loader(), no_callbacks()),
            task_function=lambda _: None,
            config=OmegaConf.create({"hydra": about}),
        )
        with suppress(Stopped):
            sweeper.sweep(swept)
        return bool(caught)


def finish(sweep: Sweep, status: SweepStatus, *, by_signal: bool) -> int:
    """Exports the best job, or all or none as asked, prints the table and the failures; returns the exit code."""
    best, folder, is_done = status.best(), sweep.folder, True
    if not by_signal:
        for job in status.jobs:
            if job["state"] in FINISHED and (job is best if sweep.export is None else sweep.export):
                export = sweep.config.changed({"export.enabled": True}).export
                is_done = write_results(RunFolder(folder / job["run"]), export=export) and is_done
        write_page(folder)
    out, console = screen(sys.stdout), screen(sys.stderr)
    out.width = out.width if out.is_terminal else _WIDTH
    out.print(table(str(folder), sweep.request.keys, status.jobs))
    for line in found(folder):
        out.print(line)
    for line in failures(status.jobs):
        console.print(line)
    if by_signal:
        console.print(f"{folder}: stopped. The same command, with name={folder.name}, continues it.")
        return EXIT_PREEMPTED
    return 0 if status.is_complete and is_done else 1


def found(folder: Path) -> list[str]:
    """Returns what the sweep found and how far that can be trusted, its best model and its page."""
    from distft.report.sweep.headline import headline  # of a sweep that has ended alone
    from distft.report.sweep.jobs import read_sweep
    from distft.report.sweep.settings import rank

    sweep = read_sweep(folder)
    ranking = rank(sweep)
    lines = ["".join(headline(sweep, ranking))]
    if len(ranking) > 1 and not any(setting.interval for setting in ranking):
        lines.append("Each setting has one run, so chance may have made this order. Try: seed=0,1,2 beside it")
    model = RunFolder(folder / ranking[0].best.folder).final if ranking else None
    lines += [f"model   {model}"] if model and model.is_dir() else []
    page = folder / "report.html"
    return [*lines, f"report  {page}"] if page.is_file() else lines


def write_page(folder: Path) -> None:
    """Lets `distft.report sweep=DIR` make the sweep's page; one that does not know the key is no failure."""
    command = [sys.executable, "-m", "distft.report", f"sweep={folder}"]
    process = start_bound(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    said, _ = process.communicate()
    if process.returncode not in (0, EXIT_WRONG_CONFIG):
        screen(sys.stderr).print(f"{folder}: no page of the sweep: {said.strip()}")


_MOST_OF_A_SEARCH = 64  # combinations of choices and ends


def plan_sweep(overrides: Sequence[str]) -> tuple[str, dict[str, tuple[Config, Plan]]]:
    """Returns what the sweep is, in words, and config and plan of each job by its name; ConfigError with all errors.

    A search has no points before it runs: then they are the combinations of its choices and the ends of its ranges.
    """
    request = read_request(overrides)
    parsed = parse(request.swept)
    config = shared_config(request, parsed)
    known, further = make_part(config, "sweep").points(parsed, {})
    points = named(known) if known else {words(point): point for point in corners(parsed, _MOST_OF_A_SEARCH)}
    planned, wrong = dict[str, tuple[Config, Plan]](), Wrong()
    for name, point in points.items():
        try:
            job = compose(request.of_job(point), sweep=True)
            planned[name] = job, make_plan(job)
        except ConfigError as error:
            wrong.add(name, error.messages)
    wrong.raise_any()
    if further or not known:
        trials = config.sweep.trials
        return f"a search of {', '.join(request.keys)}, {trials} jobs. Choices and ends of ranges:", planned
    return f"a sweep of {', '.join(request.keys)}, {len(planned)} job{'s' * (len(planned) != 1)}", planned


def planned_table(title: str, planned: dict[str, tuple[Config, Plan]], memory_gib: float | None) -> Table:
    """Returns a line for each job: steps, tokens, and what lives through the run in each process."""
    shape = Table(title=title, title_justify="left")
    sizes = [plan.memory[config.choices["strategy"]]["total"] for config, plan in planned.values() if plan.memory]
    unit = unit_of(max(sizes, default=0))
    for name in ("job", "strategy", "processes", "steps", "tokens", f"{unit} per process", ""):
        shape.add_column(name, overflow="fold", justify="left" if name in ("job", "strategy", "") else "right")
    for name, (config, plan) in planned.items():
        strategy, about = config.choices["strategy"], "about " if plan.estimated else ""
        counted: dict[str, Any] = plan.memory.get(strategy, {})
        size = f"{counted['total'] / UNITS[unit]:.2f}" if counted else ""
        fits = fits_in_words(counted, memory_gib) if counted else ""
        steps, tokens = (f"{about}{number:,}" if number else "unknown" for number in (plan.steps, plan.tokens))
        shape.add_row(name, strategy, str(plan.world), steps, tokens, size, fits)
    return shape
