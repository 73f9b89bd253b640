"""One optimizer step. The loss owns the numerator, the step owns the denominator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from distft.data.batches import Batch
from distft.losses import OUTPUTS
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, all_reduce_sum, on_device
from distft.strategies.engine import Engine, nan_if_non_finite
from distft.train.timing import Clock


@dataclass(frozen=True)
class Targets:
    """Targets of a global batch: their number, and the sum of their weights in the loss."""

    count: int
    weight: float


@dataclass(frozen=True)
class StepHooks:
    """Calls that a step makes when its gradient is there and no weight has changed."""

    extra_stats: Callable[[], Sequence[float]] = tuple  # numbers to sum over all processes in the step's collective
    before_update: Callable[[], object] = tuple
    clock: Clock | None = None  # counts the seconds of each phase


@dataclass(frozen=True)
class StepResult:
    """The result of one step on the whole global batch."""

    loss: float  # per unit of the task, such as nats per target token; with weights: per unit of weight
    metric_sums: dict[str, float]  # what the loss summed in addition to its value, over all processes
    grad_norm: float  # before clipping
    is_skipped: bool  # loss or gradient was not finite, and no weight was changed
    sums: list[float]  # over all processes, of the extra stats
    seconds: dict[str, float]  # by phase; an accelerator finishes the last update in the next steps' seconds


def train_step(
    engine: Engine,
    batches: Sequence[Batch],
    targets: int | Targets,
    world: World,
    max_norm: float | None,
    seed: int,
    hooks: StepHooks = StepHooks(),
) -> StepResult:
    """Updates the weights with the gradient of sum of losses / sum of weights over the global batch, if all is finite.

    targets: of all processes and micro-batches, so that every split of one global batch gives the same update; an int:
    their number, each of weight 1.
    seed: of this step.
    Trap: reading a tensor's value makes the host wait for the device, and so does building a tensor there from numbers
    of the host. The value is read once, before the update, which the device then does while the next step is launched.
    """
    clock = hooks.clock or Clock(world.device)
    targets = Targets(targets, targets) if isinstance(targets, int) else targets
    totals, names = torch.zeros((), dtype=torch.float64, device=world.device), list[str]()  # loss, and its further sums
    for i, batch in enumerate(batches):
        torch.manual_seed(seed_for(seed, i, world.rank))
        with clock.phase("forward"):
            value, sums = engine.forward(batch)
        with clock.phase("backward"):
            scale = world.size / targets.weight
            engine.backward(nan_if_non_finite(value), scale=scale, last=i == len(batches) - 1)
        names = [name for name in sums if name != OUTPUTS]
        totals = totals + torch.stack([value.detach().double(), *(sums[name].double() for name in names)])
    with clock.phase("checkpoint", on_host=True):
        hooks.before_update()
    with clock.phase("optimizer"):
        squared_norm = engine.squared_norm()
    with clock.phase("communication"):
        extra = on_device([*map(float, hooks.extra_stats())], world.device)
        whole, loss, *rest = all_reduce_sum(torch.cat([squared_norm.view(1), totals, extra])).tolist()
    grad_norm = sqrt(whole)
    with clock.phase("optimizer"):
        engine.update(grad_norm, max_norm)
    metric_sums, stats = dict(zip(names, rest, strict=False)), rest[len(names) :]
    return StepResult(loss / targets.weight, metric_sums, grad_norm, not isfinite(grad_norm), stats, clock.take())
