"""A search for the lowest held-out loss, by Optuna's TPE.

The n-th point is a function of (seed, n, the results before it): the study is made anew from them for every batch, so
nothing has to be kept but the run folders, and an interrupted search goes on as if it had not been.
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

_DIGITS = 4  # of a number out of an interval: what the names of folders hold
_MOST_CHECKED = 64  # combinations of choices and ends before the start
_MOST_TRIES = 100  # for a point that was not there before


class Search(Sweeper):
    """Asks Optuna for `trials` points, a batch at a time, and tells it what the runs came to."""

    def __init__(self, trials: int = 20, seed: int = 0, only_failed: bool = False, fail_fast: bool = False) -> None:
        """only_failed, fail_fast: for the launcher plugin, which is told by multirun."""
        self.trials = trials
        self.seed = seed
        self.only_failed = only_failed
        self.at_once = 1
        self.earlier: list[Point] = []

    def points(self, parsed: Sequence[Swept], earlier: Mapping[str, Point]) -> tuple[list[Point], list[Point]]:
        """Returns those of an earlier start, and choices and ends, which are to be checked too."""
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(["sweep=optuna: Optuna is not installed. Try: pip install distft[sweep]"]) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        Space(parsed)
        if missing := [name for name in named(earlier.values(), earlier=earlier) if name not in earlier]:
            raise ConfigError([f"a search goes on from all of its jobs, {missing[0]} is gone. Try: another name"])
        return list(earlier.values()), corners(parsed, _MOST_CHECKED)

    def begin(self, launcher: Launcher, earlier: Mapping[str, Point], at_once: int) -> None:
        """Takes the launcher plugin, the points of an earlier start, and how many points make a batch."""
        self.launcher, self.earlier, self.at_once = launcher, list(earlier.values()), at_once

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> list[float | None]:
        """Runs the points of an earlier start that are not done, then new ones up to `trials`."""
        assert self.launcher is not None
        space = Space(parse(arguments))
        points = list(self.earlier)
        losses = self._launch(points, 0)
        while len(points) < self.trials and not self.only_failed:
            batch = self._ask(space, points, losses)
            if not batch:
                break
            losses += self._launch(batch, len(points))
            points += batch
        return losses

    def _launch(self, batch: Sequence[Point], first: int) -> list[float | None]:
        assert self.launcher is not None
        done = self.launcher.launch(batch, initial_job_idx=first) if batch else []
        return [job.return_value for job in done]

    def _ask(self, space: "Space", points: Sequence[Point], losses: Sequence[float | None]) -> list[Point]:
        """Returns the next batch, all of it new; fewer points when the space has no more."""
        import optuna

        study = optuna.create_study()
        for point, loss in zip(points, losses, strict=True):
            space.tell(study, point, loss)
        batch: list[Point] = []
        for number in range(len(points), min(self.trials, len(points) + self.at_once)):
            for attempt in range(_MOST_TRIES):
                seed = (self.seed * 1_000_003 + number) * _MOST_TRIES + attempt
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
    """What is searched: Hydra's grammar as Optuna's distributions, and points as its parameters and back."""

    def __init__(self, parsed: Sequence[Swept]) -> None:
        self.distributions = {each.get_key_element(): _distribution(each) for each in parsed}

    def point(self, parameters: Mapping[str, Any]) -> Point:
        """Returns key=value of each parameter, numbers out of an interval rounded."""
        return tuple(f"{key}={self._rounded(key, parameters[key])}" for key in self.distributions)

    def parameters(self, point: Point) -> dict[str, Any]:
        """Returns the parameters of a point; the same ones that it was made of, up to their rounding."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        found: dict[str, Any] = {}
        for text in point:
            key, _, value = text.partition("=")
            kind = self.distributions[key]
            number = int if isinstance(kind, IntDistribution) else float
            found[key] = value if isinstance(kind, CategoricalDistribution) else number(value)
        return found

    def tell(self, study: Any, point: Point, loss: float | None) -> None:
        """Adds a result to a study; a failed job, or one of an earlier, wider space, tells it nothing."""
        from optuna.trial import create_trial

        if loss is None:
            return
        with suppress(ValueError):
            parameters = self.parameters(point)
            study.add_trial(create_trial(value=loss, params=parameters, distributions=self.distributions))

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
