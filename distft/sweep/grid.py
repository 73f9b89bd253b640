"""Grid sweep: every combination of the swept values, by Hydra's BasicSweeper."""

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override as Swept
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from distft.compat.hydra_sweeper import BasicSweeper
from distft.config.errors import ConfigError
from distft.sweep.jobs import named
from distft.sweep.request import Point
from distft.tasks.selection import Goal


class Grid(BasicSweeper):
    """Hydra's BasicSweeper over jobs that are already checked, in one batch."""

    def __init__(self, only_failed: bool = False, fail_fast: bool = False, space: Sequence[str] = ()) -> None:
        """only_failed, fail_fast: not used here; multirun passes them to the launcher plugin. space: of an experiment,
        read from its file by distft.sweep.request."""
        super().__init__(max_batch_size=None)

    def points(self, parsed: Sequence[Swept], earlier: Mapping[str, Point]) -> tuple[list[Point], list[Point]]:
        """Returns all points, and no further ones to check; ConfigError when an earlier start had different points."""
        endless = [each.input_line for each in parsed if not each.is_discrete_sweep()]
        if endless:
            raise ConfigError(f"{text}: a grid needs discrete values. Try: sweep=optuna" for text in endless)
        [batch] = self.split_arguments(list(parsed), None)
        points = [tuple(point) for point in batch]
        names = named(points, earlier=earlier)
        if other := next((name for name, point in earlier.items() if names.get(name) != point), None):
            raise ConfigError([f"the sweep folder has {other}, which is not one of these points. Try: another name"])
        return points, []

    def begin(self, launcher: Launcher, earlier: Mapping[str, Point], at_once: int, goal: Goal = "minimize") -> None:
        """Sets the launcher plugin directly: Hydra only finds plugins in packages named hydra_plugins."""
        self.launcher = launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Does nothing: distft.config has checked the points, and accepts some that Hydra's rules refuse."""
