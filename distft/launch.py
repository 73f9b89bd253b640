"""One run from its command line to its exit code.

Compose, check, prepare, plan, freeze, submit, follow, export, report.
Trap: this process may wait for days on a login node, so it imports neither torch nor transformers;
what needs them runs as an own process that cannot outlive this one.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from distft.config.command import command
from distft.config.compose import Config, compose
from distft.config.errors import ConfigError
from distft.config.freeze import difference, frozen_text
from distft.data.key import prepared_dir
from distft.history import check_config, check_plan, config_before, is_done, resumed, set_aside
from distft.launchers.contract import Launcher, Outcome
from distft.launchers.follow import follow
from distft.paths import absolute
from distft.plan import make_plan
from distft.run import FINISHED, Plan, RunFolder, write_json
from distft.runtime import stop
from distft.runtime.disk import sync
from distft.runtime.environment import describe, redact, secrets
from distft.runtime.lock import alone
from distft.runtime.logs import last_lines, redirect
from distft.runtime.parent import start_bound
from distft.trackers.contract import Guarded, Tracker
from distft.trackers.terminal import Terminal, screen, summary


def main(overrides: list[str]) -> int:
    """Returns the run's exit code: 0 done, 75 preempted (the same command continues it), 1 failed."""
    config = compose(overrides)
    refuse_secrets(config)
    launcher, tracker = make_part(config, "launcher"), make_part(config, "tracker")
    run = RunFolder(run_dir(config))
    check_config(run, config)
    plan = None if is_done(run, config) else prepare_and_plan(run, config, overrides)
    with alone(run.path / ".lock") as held:
        if not held:
            raise ConfigError([f"name={run.path.name}: another launch is busy with {run.path}. Nearest: another name"])
        check_config(run, config)  # it may have come into being meanwhile
        if plan is not None and not is_done(run, config):
            freeze(run, config, plan, overrides)
            if not launcher.wait and go_on_in_background(run):
                return 0
            outcome = supervise(run, launcher, tracker)
            if outcome.state not in FINISHED:
                return tell_end(run, outcome)
        return finish(run)


def run_dir(config: Config) -> Path:
    """Returns the run's folder; a run without a name gets a new one from model, data and time."""
    folder = absolute(config.values["runs_dir"])
    if config.values["name"] is None:
        name = f"{config.choices['model']}-{config.choices['data']}-{time.strftime('%Y%m%d-%H%M%S')}"
        others = len(list(folder.glob(f"{name}*")))
        config.values["name"] = f"{name}-{others + 1}" if others else name
    return folder / config.values["name"]


def make_part(config: Config, group: str) -> Any:
    """Returns the launcher or the tracker that the config names, None for a null `_target_`."""
    settings = dict(config.values[group])
    target = settings.pop("_target_")
    if target is None and group == "launcher":
        raise ConfigError([f"launcher={config.choices['launcher']} cannot launch yet. Nearest: launcher=local"])
    try:
        return None if target is None else get_class(target)(**settings)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def refuse_secrets(config: Config) -> None:
    """Raises ConfigError when the config holds the value of a secret variable: it would be kept in files."""
    text = frozen_text(config)
    found = [name for name, value in secrets().items() if value in text]
    rule = "its value stands in the config, which is kept in the run folder. Leave the secret in the environment"
    if found:
        raise ConfigError(f"${name}: {rule}" for name in found)


def prepare_and_plan(run: RunFolder, config: Config, overrides: list[str]) -> Plan:
    """Prepares the data where that has not been done, and returns the plan of the run, from its checkpoint on."""
    if prepared_dir(config.values) is None:
        run_command("prepare", *overrides)
    manifest = resumed(run, config)
    plan = make_plan(config, manifest)
    check_plan(plan, run, config, manifest)
    return plan


def freeze(run: RunFolder, config: Config, plan: Plan, overrides: list[str]) -> None:
    """Writes what the run is and runs with, and counts the attempt up; nothing of this attempt changes afterwards."""
    text = frozen_text(config)
    before = config_before(run, config)
    for line in difference(before, config.values) if before else []:
        if not line.startswith("checkpoint.allow_change"):
            screen(sys.stderr).print(f"changed: {line}")
    set_aside(run, text)
    run.write_plan(plan)
    run.config.write_text(text)
    run.command.write_text(redact(shlex.join(["python", "-m", "distft.launch", *overrides])) + "\n")
    write_json(run.environment, describe())
    for file in (run.config, run.plan, run.path):  # checkpoints are worth little without what they are of
        sync(file)
    stop.clear(run)
    run.write_status(state="pending", attempt=run.read_status()["attempt"] + 1, exit_code=None, error=None)


def go_on_in_background(run: RunFolder) -> bool:
    """Splits off a process that owns the run from here on; returns True in the one that the user waits for."""
    child = os.fork()
    if child:
        print(f"{run.path} runs in the background as process {child}. Save and stop it: touch {run.stop}")
        return True
    os.setsid()
    redirect(run.logs / "launch.log")
    return False


def supervise(run: RunFolder, launcher: Launcher, tracker: Tracker | None) -> Outcome:
    """Runs one attempt to its end, shown on the terminal and fed to the tracker."""
    attempt, plan, console = run.read_status()["attempt"], run.read_plan(), screen(sys.stderr)
    logs = run.rank_log(attempt, 0).parent
    console.print(f"{run.path}: {plan.steps} steps, {plan.world} process{'es' * (plan.world > 1)}, logs in {logs}")
    watchers = (Terminal(console), Guarded(tracker))
    [handle] = launcher.submit([run.path])
    for watcher in watchers:
        watcher.start(run)
    outcome = Outcome("failed")
    try:
        outcome = follow(run, handle, attempt, launcher.grace_seconds, [each.log for each in watchers], console.print)
    finally:
        for watcher in watchers:
            watcher.finish(outcome.state)
    return outcome


def tell_end(run: RunFolder, outcome: Outcome) -> int:
    """Tells why a run is not done, the culprit in the last lines; returns its exit code."""
    console = screen(sys.stderr)
    if outcome.state == "preempted":
        console.print(f"{run.path}: saved and stopped. The same command, with name={run.path.name}, continues it.")
    if outcome.error:
        lines = outcome.error["traceback"].splitlines()[-12:]
        who = "the run" if outcome.error["rank"] is None else f"rank {outcome.error['rank']}"
        first, *_ = outcome.error["message"].strip().splitlines() or [""]
        lines += [f"{run.path.name} failed: {who} on {outcome.error['host']}: {outcome.error['type']}: {first}"]
        lines += [f"at  {outcome.error['where']}"] if outcome.error["where"] else []
        lines += [f"log {outcome.error['log'] or run.logs}"]
        console.print("\n".join(lines))
    return outcome.exit_code


def finish(run: RunFolder) -> int:
    """Exports and reports a finished run where that has not been done, and prints its summary."""
    if not run.final.is_dir():
        run_command("export", f"run={run.path}", f"out={run.final}", log=run.logs / "export.log")
    if not (run.path / "report.html").is_file():
        run_command("report", f"run={run.path}", log=run.logs / "report.log")
    screen(sys.stdout).print(summary(run))
    return 0


def run_command(name: str, *overrides: str, log: Path | None = None) -> None:
    """Runs another command of distft to its end; exits with its code when it failed."""
    output = log.open("w") if log else None
    process = start_bound(
        [sys.executable, "-m", f"distft.{name}", *overrides],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if log else None,
        start_new_session=True,  # Ctrl-C ends this process, and it with it
    )
    console = screen(sys.stderr)
    with console.status(f"{name} ...") if log else nullcontext():
        code = process.wait()
    if code:
        console.print("\n".join(last_lines(log, 20)) if log else "")
        console.print(f"distft.{name} failed with code {code}" + (f", log: {log}" if log else ""))
        sys.exit(code if code > 0 else 1)


def launch(overrides: list[str]) -> int:
    """Returns what main does, or 1 when a file cannot be written; a signal before the start exits with 128 + number."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        return main(overrides)
    except OSError as error:
        screen(sys.stderr).print(f"distft: {error}")
        return 1


if __name__ == "__main__":
    command(launch)
