"""One optimizer step. The loss owns the numerator, the step owns the denominator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from distft.data.batches import Batch
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, all_reduce_sum, on_device
from distft.strategies.engine import Engine, poisoned
from distft.train.timing import Clock


@dataclass(frozen=True)
class StepResult:
    """What one step did to the whole global batch."""

    loss: float  # nats per target token
    accuracy: float  # share of targets that are the argmax of their logits
    grad_norm: float  # before clipping
    is_skipped: bool  # loss or gradient was not finite, and no weight was changed
    sums: list[float]  # over all processes, of what each told
    seconds: dict[str, float]  # by phase; on an accelerator of what it has done, the last update is in the next ones


def train_step(
    engine: Engine,
    batches: Sequence[Batch],
    targets: int,
    world: World,
    max_norm: float | None,
    seed: int,
    told: Callable[[], Sequence[float]] = tuple,
    before_update: Callable[[], object] = tuple,
    clock: Clock | None = None,
) -> StepResult:
    """Updates the weights with the gradient of (sum of losses) / targets over the global batch, if all is finite.

    targets: of all processes and micro-batches, so that every split of one global batch gives the same update.
    seed: of this step; told: asked when the gradient is there, numbers whose sums all are to know, carried by the
    same collective; before_update: called when the gradient is there and no weight has changed.
    Trap: whatever asks a tensor for its value makes the host wait for the device, and so does a tensor that is made
    there of numbers of the host. The first is done once, before the update, which the device then does while the next
    step is launched.
    """
    clock = clock or Clock(world.device)
    totals = torch.zeros(2, dtype=torch.float64, device=world.device)  # loss, correct
    for i, batch in enumerate(batches):
        torch.manual_seed(seed_for(seed, i, world.rank))
        with clock.phase("forward"):
            value, sums = engine.forward(batch)
        with clock.phase("backward"):
            engine.backward(poisoned(value), scale=world.size / targets, last=i == len(batches) - 1)
        totals[0] += value.detach()
        totals[1] += sums["correct"]
    with clock.phase("checkpoint", on_host=True):
        before_update()
    with clock.phase("optimizer"):
        squared_norm = engine.squared_norm()
    with clock.phase("communication"):
        own = on_device([*map(float, told())], world.device)
        whole, loss, correct, *sums = all_reduce_sum(torch.cat([squared_norm.view(1), totals, own])).tolist()
    grad_norm = sqrt(whole)
    with clock.phase("optimizer"):
        engine.update(grad_norm, max_norm)
    return StepResult(loss / targets, correct / targets, grad_norm, not isfinite(grad_norm), sums, clock.take())
