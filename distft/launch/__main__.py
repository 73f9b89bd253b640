"""One run from its command line to its exit code; with -m a sweep of them.

Compose, check, prepare, plan, freeze, submit, follow, export, report.
Trap: this process may wait for days on a login node, so it must not import torch or transformers;
programs that need them run as child processes that die with this one.
"""

import signal
import sys
from collections.abc import Sequence

from distft.config.command import command, help_text
from distft.config.compose import compose
from distft.config.errors import ConfigError
from distft.config.freeze import read_config
from distft.config.overrides import MULTIRUN
from distft.config.schema import Config
from distft.launch.benchmarks import measure_here
from distft.launch.history import check_config, check_followed, is_done, kept_rows
from distft.launch.hosted import finish_hosted, plan_hosted
from distft.launch.restarts import restarting
from distft.launch.stages import (
    check_devices,
    check_exported,
    check_writable,
    find,
    freeze,
    go_on_in_background,
    make_part,
    prepare_and_plan,
    refuse_secrets,
    results_of,
    submit,
    with_frozen_values,
    with_name,
    write_results,
)
from distft.launchers.contract import Handle, Launcher, Outcome
from distft.launchers.follow import follow
from distft.paths import without_number
from distft.plan.show import what_ends
from distft.report.facts import exported
from distft.run import BENCHMARK, BY_YOU, FINISHED, RunFolder
from distft.runtime.disk import alone
from distft.runtime.errors import FINAL
from distft.runtime.process import exits_on
from distft.sweep.multirun import multirun
from distft.trackers.contract import Guarded, make_trackers
from distft.trackers.terminal import Terminal, screen, summary

OWN = [(" or ".join(MULTIRUN), "a sweep: one run per value of KEY=A,B,C, and a table of results")]


def main(overrides: list[str]) -> int:
    """Returns the run's exit code: 0 done, 75 preempted (the same command continues it), 1 failed."""
    config = compose(overrides, kept=kept_rows)
    refuse_secrets(config)
    launcher, trackers = make_part(config, "launcher"), make_trackers(config.tracker)
    run, config = with_name(config)
    check_writable(run.path.parent)
    check_devices(config)
    config, own = with_frozen_values(run, config)
    check_config(run, config)
    handle = find(launcher, run)  # from an earlier launch, or another machine's
    if handle is not None:
        check_followed(run, config, handle.name)
    if is_done(run, config):
        check_exported(run, config)
    plan = None
    if handle is None and not is_done(run, config):
        plan = plan_hosted(run, config) if launcher.is_hosted else prepare_and_plan(run, config, overrides, own)
    with alone(run.path / ".lock") as held:
        if not held and handle is None:
            raise ConfigError([f"name={run.path.name}: another launch uses {run.path}. Try: another name"])
        check_config(run, config)  # another launch may have created it meanwhile
        if plan is not None and not is_done(run, config):
            freeze(run, config, plan, overrides)
            alone_from_here = not config.launcher.wait and not launcher.outlives_launch
            if alone_from_here and go_on_in_background(run.path, run.logs / "launch.log", f"touch {run.stop}"):
                return 0
            [handle] = submit(launcher, [run])
            handle = restarting(handle, run, config)
        if handle is not None and not config.launcher.wait and launcher.outlives_launch:
            print(f"{run.path} is {handle.name}. {how_to_follow(run)}")
            return 0
        if handle is None:
            return finish_hosted(run, config) if launcher.is_hosted else finish(run, config)
        return track(run, config, handle, launcher, [*map(Guarded, trackers)])


def track(run: RunFolder, config: Config, handle: Handle, launcher: Launcher, trackers: Sequence[Guarded]) -> int:
    """Follows a submitted run to its end, exports and reports it, and closes its trackers; returns the exit code."""
    outcome = Outcome("failed")
    try:
        outcome = supervise(run, handle, launcher, trackers, config.launcher.grace_seconds)
        if outcome.state not in FINISHED:
            return report_end(run, outcome)
        if handle.is_part:
            return 0
        code = finish_hosted(run, config) if launcher.is_hosted else finish(run, config)
        for tracker in trackers:
            for row in run.read_metrics(BENCHMARK):
                tracker.log(row)
            tracker.results(results_of(run))
        return code
    finally:
        for tracker in trackers:
            tracker.finish(outcome.state)


def supervise(
    run: RunFolder, handle: Handle, launcher: Launcher, trackers: Sequence[Guarded], grace_seconds: float
) -> Outcome:
    """Follows one submitted run to its end; shows it on the terminal and logs its rows to the trackers."""
    plan, console = run.read_plan(), screen(sys.stderr)
    folder = run.rank_log(run.read_status()["attempt"], 0).parent
    limit = what_ends(plan, read_config(run).train)
    work = f"{plan.steps} steps{limit}, {plan.world} process{'es' * (plan.world > 1)}, logs in {folder}"
    console.print(f"{run.path}: {handle.name if plan.is_hosted else work}")
    terminal = Terminal(console)
    for watcher in (terminal, *trackers):
        watcher.start(run)
    outcome = Outcome("failed")
    try:
        detaches = is_left_alone if launcher.outlives_launch else lambda _: False
        logs = [each.log for each in (terminal, *trackers)]
        outcome = follow(run, handle, grace_seconds, logs, console.print, detaches)
    finally:
        terminal.finish(outcome.state)
    return outcome


def is_left_alone(cause: signal.Signals) -> bool:
    """Returns whether a signal to this process leaves a job running that outlives it; the user may say otherwise."""
    if cause != signal.SIGINT or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    try:
        answer = input("\nSave and stop the job? Otherwise it continues without this command. [y/N] ")
    except EOFError:
        answer = ""
    return not answer.strip().lower().startswith("y")


def how_to_follow(run: RunFolder) -> str:
    return f"The same command, with name={run.path.name}, follows it. Save and stop it: touch {run.stop}"


def report_end(run: RunFolder, outcome: Outcome) -> int:
    """Prints why a run did not complete, with the culprit in the last lines; returns its exit code."""
    console = screen(sys.stderr)
    if outcome.state in ("pending", "running"):
        console.print(f"{run.path} continues. {how_to_follow(run)}")
    if outcome.state == "preempted":
        by = (
            reason if (reason := run.read_status()["reason"] or "").startswith(BY_YOU) else f"({reason})" * bool(reason)
        )
        stopped = f"saved and stopped {by}".strip()
        console.print(f"{run.path}: {stopped}. The same command, with name={run.path.name}, continues it.")
    if outcome.error:
        is_plain = outcome.error["type"] in FINAL  # its message says all
        lines = [] if is_plain else outcome.error["traceback"].splitlines()[-12:]
        who = "the run" if outcome.error["rank"] is None else f"rank {outcome.error['rank']}"
        first, *_ = outcome.error["message"].strip().splitlines() or [""]
        lines += [f"{run.path.name} failed: {who} on {outcome.error['host']}: {outcome.error['type']}: {first}"]
        lines += [f"at  {outcome.error['where']}"] if outcome.error["where"] and not is_plain else []
        lines += [f"log {outcome.error['log'] or run.logs}"]
        console.print("\n".join(lines))
    return outcome.exit_code


def finish(run: RunFolder, config: Config) -> int:
    """Exports, where that is wanted, and reports a finished run, and prints its summary; 1 when one of both failed.

    On this machine its benchmarks follow; a job submits them.
    """
    is_done = write_results(run, export=config.export)
    screen(sys.stdout).print(summary(run, exported(run, config.export)))
    if config.eval.benchmarks and config.choices["launcher"] != "slurm":
        measure_here(run, config)
    return 0 if is_done else 1


def launch(arguments: list[str]) -> int:
    """Returns the exit code of the run or sweep; 1 when a file cannot be written, 128 + a signal before the start."""
    overrides = [each for each in arguments if each not in MULTIRUN]
    try:
        with exits_on(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            return main(overrides) if len(overrides) == len(arguments) else multirun(overrides)
    except OSError as error:
        screen(sys.stderr).print(f"distft: {without_number(error)}")
        return 1


if __name__ == "__main__":
    command(launch, help=help_text("launch", OWN))
