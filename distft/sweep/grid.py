"""Every combination of the values that are swept, by Hydra's own sweeper."""

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override as Swept
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from distft.compat.hydra_sweeper import BasicSweeper
from distft.config.errors import ConfigError
from distft.sweep.jobs import named
from distft.sweep.request import Point


class Grid(BasicSweeper):
    """Hydra's BasicSweeper over jobs that are checked already, all of them one batch."""

    def __init__(self, only_failed: bool = False, fail_fast: bool = False) -> None:
        """only_failed, fail_fast: for the launcher plugin, which is told by multirun."""
        super().__init__(max_batch_size=None)

    def points(self, parsed: Sequence[Swept], earlier: Mapping[str, Point]) -> tuple[list[Point], list[Point]]:
        """Returns all points, and no further ones to check; ConfigError when those of an earlier start are others."""
        endless = [each.input_line for each in parsed if not each.is_discrete_sweep()]
        if endless:
            raise ConfigError(f"{text}: a grid has no values for it. Try: sweep=optuna" for text in endless)
        [batch] = self.split_arguments(list(parsed), None)
        points = [tuple(point) for point in batch]
        names = named(points, earlier=earlier)
        if other := next((name for name, point in earlier.items() if names.get(name) != point), None):
            raise ConfigError([f"the sweep's folder has {other}, which is none of these points. Try: another name"])
        return points, []

    def begin(self, launcher: Launcher, earlier: Mapping[str, Point], at_once: int) -> None:
        """Takes the launcher plugin as it is: Hydra makes only those of packages that are named hydra_plugins."""
        self.launcher = launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Passes: the points were composed by distft.config, which takes what Hydra's own rules refuse."""
