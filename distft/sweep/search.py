"""Search for the best eval.metric with Optuna's TPE sampler.

The n-th point is a function of (seed, n, earlier results): the study is rebuilt from them for every batch. So the run
folders are the only state, and an interrupted search continues with the same points as an uninterrupted one.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.core.override_parser.types import Override as Swept
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from distft.config.errors import ConfigError
from distft.sweep.jobs import named
from distft.sweep.request import Point, corners, parse
from distft.tasks.selection import Goal

_DIGITS = 4  # of numbers from an interval, so that folder names are short
_MAX_CHECKED = 64  # combinations of choices and range ends to check before the start
_MAX_TRIES = 100  # to sample a new point


class Search(Sweeper):
    """Samples `trials` points from Optuna in batches, and reports the results of the runs to it."""

    def __init__(
        self,
        trials: int = 20,
        seed: int = 0,
        only_failed: bool = False,
        fail_fast: bool = False,
        space: Sequence[str] = (),
    ) -> None:
        """only_failed, fail_fast: multirun passes them to the launcher plugin; only_failed samples no new points.

        space: of an experiment, read from its file by distft.sweep.request.
        """
        self.trials = trials
        self.seed = seed
        self.only_failed = only_failed
        self.at_once = 1
        self.goal: Goal = "minimize"
        self.earlier: list[Point] = []

    def points(self, parsed: Sequence[Swept], earlier: Mapping[str, Point]) -> tuple[list[Point], list[Point]]:
        """Returns the points of an earlier start, and combinations of choices and range ends to check."""
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(["sweep=optuna: Optuna is not installed. Try: pip install distft[sweep]"]) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        Space(parsed)
        if missing := [name for name in named(earlier.values(), earlier=earlier) if name not in earlier]:
            raise ConfigError(
                [f"a search continues from all of its jobs, but {missing[0]} is missing. Try: another name"]
            )
        return list(earlier.values()), corners(parsed, _MAX_CHECKED)

    def begin(self, launcher: Launcher, earlier: Mapping[str, Point], at_once: int, goal: Goal = "minimize") -> None:
        """Sets the launcher plugin, the points of an earlier start, the batch size, and what is done to eval.metric."""
        self.launcher, self.earlier, self.at_once, self.goal = launcher, list(earlier.values()), at_once, goal

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> list[float | None]:
        """Runs the unfinished points of an earlier start, then new ones up to `trials`."""
        assert self.launcher is not None
        space = Space(parse(arguments))
        points = list(self.earlier)
        values = self._launch(points, 0)
        while len(points) < self.trials and not self.only_failed:
            batch = self._ask(space, points, values)
            if not batch:
                break
            values += self._launch(batch, len(points))
            points += batch
        return values

    def _launch(self, batch: Sequence[Point], first: int) -> list[float | None]:
        assert self.launcher is not None
        done = self.launcher.launch(batch, initial_job_idx=first) if batch else []
        return [job.return_value for job in done]

    def _ask(self, space: "Space", points: Sequence[Point], values: Sequence[float | None]) -> list[Point]:
        """Samples the next batch of new points; fewer when the space has no more."""
        import optuna

        study = optuna.create_study(direction=self.goal)
        for point, value in zip(points, values, strict=True):
            space.add_result(study, point, value)
        batch: list[Point] = []
        for number in range(len(points), min(self.trials, len(points) + self.at_once)):
            for attempt in range(_MAX_TRIES):
                seed = (self.seed * 1_000_003 + number) * _MAX_TRIES + attempt
                study.sampler = optuna.samplers.TPESampler(
                    seed=seed % 2**32, n_startup_trials=min(10, self.trials // 3), constant_liar=True
                )
                trial = study.ask(space.distributions)
                point = space.point(trial.params)
                if point not in points and point not in batch:
                    batch.append(point)
                    break
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return batch


class Space:
    """The search space: converts Hydra's grammar to Optuna's distributions, and points to parameters and back."""

    def __init__(self, parsed: Sequence[Swept]) -> None:
        self.distributions = {each.get_key_element(): _distribution(each) for each in parsed}

    def point(self, parameters: Mapping[str, Any]) -> Point:
        """Returns key=value of each parameter, with numbers from intervals rounded."""
        return tuple(f"{key}={self._rounded(key, parameters[key])}" for key in self.distributions)

    def parameters(self, point: Point) -> dict[str, str | int | float]:
        """Returns the parameters of a point, up to rounding those that it was made from."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        found: dict[str, str | int | float] = {}
        for text in point:
            key, _, value = text.partition("=")
            kind = self.distributions[key]
            number = int if isinstance(kind, IntDistribution) else float
            found[key] = value if isinstance(kind, CategoricalDistribution) else number(value)
        return found

    def add_result(self, study: Any, point: Point, value: float | None) -> None:
        """Adds a result to a study, except of a failed job or one outside of the space."""
        from optuna.trial import create_trial

        if value is None:
            return
        with suppress(ValueError):
            parameters = self.parameters(point)
            study.add_trial(create_trial(value=value, params=parameters, distributions=self.distributions))

    def _rounded(self, key: str, value: Any) -> Any:
        from optuna.distributions import FloatDistribution

        kind = self.distributions[key]
        if not isinstance(kind, FloatDistribution) or kind.step is not None:
            return value
        return min(max(float(f"{value:.{_DIGITS}g}"), kind.low), kind.high)


def _distribution(swept: Swept) -> Any:
    """Returns the distribution of interval(...), range(...) or choices; the tag `log` makes it logarithmic."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = swept.value()
    log = "log" in getattr(value, "tags", ())
    try:
        if isinstance(value, IntervalSweep):
            whole = isinstance(value.start, int) and isinstance(value.end, int)
            return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log=log)  # type: ignore[arg-type]
        if isinstance(value, RangeSweep):
            numbers: list[Any] = list(value.range())
            low, high, step = min(numbers), max(numbers), abs(value.step)
            if log:
                return IntDistribution(low, high, log=True)
            whole = all(isinstance(number, int) for number in (low, high, step))
            return (IntDistribution if whole else FloatDistribution)(low, high, step=step)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError([f"{swept.input_line}: {error}"]) from error
    return CategoricalDistribution(list(swept.sweep_string_iterator()))
