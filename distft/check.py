"""`distft check [-m] [OVERRIDES] [--json]`: checks all that a launch checks, and starts nothing.

Keys, this machine, what an earlier run of the name was made with, model and rows: what is not prepared yet is prepared,
and the launch finds it. Exit code 0, or 2 with every error at once.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypedDict

from distft.config import Config, ConfigError, command, compose, help_text
from distft.config.command import JSON, errors_of
from distft.config.overrides import MULTIRUN
from distft.launch.history import Own, check_config, check_followed, is_done, kept_rows, resumed
from distft.launch.hosted import plan_hosted
from distft.launch.stages import (
    check_devices,
    check_exported,
    check_writable,
    default_name,
    make_part,
    must_prepare,
    plan_run,
    refuse_secrets,
    with_frozen_values,
)
from distft.launchers.slurm.job import find_job
from distft.paths import absolute
from distft.plan.make import model_notes
from distft.run import EXIT_WRONG_CONFIG, Plan, RunFolder, json_text
from distft.runtime.disk import alone
from distft.runtime.process import start_bound
from distft.trackers.contract import make_trackers

OWN = [
    (" or ".join(MULTIRUN), "every job of a sweep"),
    (JSON, "the result as JSON, errors among it"),
]
Launch = Literal["start", "continue", "follow", "show"]


class Checked(TypedDict):
    """What --json prints of a config without an error."""

    errors: list[str]  # empty
    notes: list[str]
    run: str | None  # null: a new one
    launch: Launch  # what it would do: start the run, continue it, follow its job, or show the finished one's result
    step: int  # that it starts from
    steps: int
    rows: int
    eval_rows: int
    processes: int


def main(arguments: list[str]) -> int:
    """Returns 0 for a config that a launch accepts; else the ConfigError that it would raise."""
    as_json = JSON in arguments
    overrides = [each for each in arguments if each not in (JSON, *MULTIRUN)]
    if set(arguments) & set(MULTIRUN):
        return check_sweep(overrides, as_json=as_json)
    found = check(overrides, is_quiet=as_json)
    if as_json:
        print(json_text(found, indent=2))
        return 0
    for line in found["notes"]:
        print(line)
    print(f"ok: {in_words(found)}")
    return 0


def check(overrides: Sequence[str], *, is_quiet: bool = False) -> Checked:
    """Returns what a launch with these arguments would do; ConfigError with all that is wrong.

    is_quiet: what the preparation of data prints is left out.
    """
    config = compose(overrides, kept=kept_rows)
    is_new = config.name is None
    config = config.changed({"name": default_name(config)}) if is_new else config
    run = RunFolder(absolute(config.runs_dir) / str(config.name))
    frozen = list[tuple[Config, Own | None]]()

    def earlier() -> None:
        frozen.append(with_frozen_values(run, config))
        check_config(run, frozen[0][0])

    all_of(
        lambda: refuse_secrets(config),
        lambda: make_part(config, "launcher"),
        lambda: make_trackers(config.tracker),
        lambda: check_writable(run.path.parent),
        lambda: check_devices(config),
        lambda: check_free(run),
        earlier,
    )
    config, own = frozen[0]
    if is_done(run, config):
        check_exported(run, config)
        return _checked(None if is_new else run, "show", run.read_plan(), run.read_status()["step"])
    if job := find_job(run):
        check_followed(run, config, f"job {job}")
    if make_part(config, "launcher").is_hosted:
        with TemporaryDirectory() as folder:  # its rows become files to upload
            plan = plan_hosted(RunFolder(Path(folder) / run.path.name), config)
    else:
        if not job and must_prepare(config, own):
            prepare(overrides, is_quiet=is_quiet)
        plan = plan_run(run, config, own)
    manifest = resumed(run, config)
    step = int(manifest["step"]) if manifest else 0
    found = _checked(None if is_new else run, "follow" if job else "continue" if step else "start", plan, step)
    return {**found, "notes": [*config.notes, *(model_notes(config) if own is None else [])]}


def check_free(run: RunFolder) -> None:
    """Raises ConfigError where another launch uses the run."""
    if not run.path.is_dir():
        return
    with alone(run.path / ".lock") as held:
        if not held:
            raise ConfigError([f"name={run.path.name}: another launch uses {run.path}. Try: another name"])


def _checked(run: RunFolder | None, launch: Launch, plan: Plan, step: int) -> Checked:
    return {
        "errors": [],
        "notes": [],
        "run": str(run.path) if run else None,
        "launch": launch,
        "step": step,
        "steps": plan.steps,
        "rows": plan.rows,
        "eval_rows": plan.eval_rows,
        "processes": plan.world,
    }


def in_words(found: Checked) -> str:
    """Returns what a launch would do, as a sentence."""
    name = found["run"] or "a new run"
    if found["launch"] == "show":
        return f"{name} is complete, and a launch shows its result"
    rows = f"{found['rows']:,} rows to train on, {found['eval_rows']:,} held out"
    processes = f"{found['processes']} process{'es' * (found['processes'] > 1)}"
    does = {"start": f"starts {name}", "continue": f"continues {name}", "follow": f"follows the job of {name}"}
    begin = f" from step {found['step']:,}" if found["launch"] == "continue" else ""
    return f"a launch {does[found['launch']]}{begin}: {found['steps']:,} steps on {processes}, {rows}"


def check_sweep(overrides: Sequence[str], *, as_json: bool) -> int:
    """Checks every job of a sweep, and prints how many there are; returns 0."""
    from distft.sweep.multirun import compose_sweep  # Hydra's sweepers are slow to import

    sweep, _, _ = compose_sweep(overrides)
    done = sum(job.is_done for job in sweep.jobs)
    if as_json:
        jobs = {job.name: job.plan.steps if job.plan else None for job in sweep.jobs}
        print(json_text({"errors": [], "sweep": str(sweep.folder), "done": done, "steps": jobs}, indent=2))
    else:
        print(f"ok: a sweep of {', '.join(sweep.request.keys)}, {len(sweep.jobs)} jobs, {done} of them done")
    return 0


def prepare(overrides: Sequence[str], *, is_quiet: bool) -> None:
    """Prepares rows and checks the model in a process of its own; ConfigError with what it refuses."""
    command = [sys.executable, "-m", "distft.prepare", *overrides]
    process = start_bound(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE if is_quiet else None)
    _, said = process.communicate()
    if process.returncode == EXIT_WRONG_CONFIG and said:
        raise ConfigError(errors_of(said.splitlines()))
    if process.returncode:
        sys.stderr.write(said or "")
        sys.exit(process.returncode)


def all_of(*checks: Callable[[], Any]) -> None:
    """Makes every check; ConfigError with the errors of all."""
    errors = list[str]()
    for each in checks:
        try:
            each()
        except ConfigError as error:
            errors += error.messages
    if errors:
        raise ConfigError(dict.fromkeys(errors))


if __name__ == "__main__":
    command(main, help=help_text("check", OWN))
