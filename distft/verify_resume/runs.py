"""Runs one config several times, each time in a new folder, with the launcher and processes of the config."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distft.config import Config, ConfigError
from distft.config.freeze import frozen_text
from distft.config.parts import read_elsewhere
from distft.config.targets import build
from distft.launchers.contract import Launcher, Outcome
from distft.run import FINISHED, Plan, RunFolder, read_json, write_json
from distft.verify_resume.kills import Kill

Fed = dict[tuple[int, int, int], tuple[str, ...]]  # (step, rank, micro-batch) -> digests of its rows


def kills_of(run: RunFolder) -> Path:
    return run.path / "kills.json"


def death_of(run: RunFolder, attempt: int) -> Path:
    return run.rank_log(attempt, 0).with_name("killed.json")


def fed_file(run: RunFolder, attempt: int, rank: int) -> Path:
    return run.rank_log(attempt, rank).with_name(f"rank-{rank}.fed.jsonl")


def read_fed(run: RunFolder) -> dict[int, Fed]:
    """Returns the micro-batches that each attempt read; a last line cut off by the kill is skipped."""
    found: dict[int, Fed] = defaultdict(dict)
    for file in sorted(run.logs.glob("attempt-*/rank-*.fed.jsonl")):
        attempt = int(file.parent.name.removeprefix("attempt-"))
        rank = int(file.name.removeprefix("rank-").removesuffix(".fed.jsonl"))
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                found[attempt][row["step"], rank, row["micro"]] = tuple(row["rows"])
    return dict(found)


def first_step(run: RunFolder, attempt: int) -> int | None:
    """Returns the first step that an attempt began; None when it began none."""
    return min((step for step, _, _ in read_fed(run).get(attempt, {})), default=None)


WORK = "distft.verify_resume.watched.train"


class RunFailed(RuntimeError):
    """A run failed, or a kill did not happen; the message names the error and the log."""


@dataclass(frozen=True)
class Recipe:
    """Config, plan and function of the ranks that an attempt is frozen from."""

    config: Config
    plan: Plan
    work: str = WORK


def run_straight(recipe: Recipe, path: Path) -> RunFolder:
    """Returns the folder of an uninterrupted run; RunFailed when it failed."""
    run = RunFolder(path)
    write_json(kills_of(run), [])
    _expect_end(run, attempt(run, recipe))
    return run


def kill_and_resume(
    first: Recipe, later: Recipe, kills: Sequence[Kill], path: Path, say: Callable[[str], None]
) -> RunFolder:
    """Returns the folder of a run that was killed at each of `kills` and resumed after each.

    later: the recipe from the second attempt on. RunFailed when a kill did not happen, or the run failed otherwise.
    """
    run = RunFolder(path)
    write_json(kills_of(run), [asdict(kill) for kill in kills])
    for number, kill in enumerate(kills, 1):
        outcome = attempt(run, first if number == 1 else later)
        death = death_of(run, number)
        if not death.is_file():
            raise RunFailed(f"attempt {number} was to be killed in {kill} and was not: {_end(run, outcome)}")
        say(f"  rank {read_json(death)['rank']} killed in {kill}")
    _expect_end(run, attempt(run, later))
    starts = [(first_step(run, number) or 1) - 1 for number in range(2, len(kills) + 2)]
    say(f"  resumed from steps {', '.join(map(str, starts))}")
    if not any(starts):
        raise RunFailed("every resume started anew, so nothing is proved. Try: a kill after the first checkpoint")
    return run


def attempt(run: RunFolder, recipe: Recipe) -> Outcome:
    """Freezes the run's next attempt, starts it and waits for its end."""
    own = {"name": run.path.name, "runs_dir": str(run.path.parent), "work": recipe.work}
    run.write_plan(recipe.plan)
    run.config.write_text(frozen_text(recipe.config.changed(own)))
    run.write_status(state="pending", attempt=run.read_status()["attempt"] + 1, exit_code=None, error=None)
    [handle] = make_launcher(recipe.config).submit([run.path])
    try:
        while (outcome := handle.wait(0.2)) is None:
            pass
    except BaseException:  # a signal too
        handle.cancel()
        raise
    return outcome


def make_launcher(config: Config) -> Launcher:
    settings = config.launcher.plain()
    target = settings.pop("_target_")
    try:
        return build(target, settings, read_elsewhere(target))
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def _expect_end(run: RunFolder, outcome: Outcome) -> None:
    if outcome.state not in FINISHED:
        raise RunFailed(f"{run.path.name} did not end: {_end(run, outcome)}")


def _end(run: RunFolder, outcome: Outcome) -> str:
    if outcome.error is None:
        return outcome.state
    return f"{outcome.error['type']}: {outcome.error['message']}, log: {outcome.error['log'] or run.logs}"
