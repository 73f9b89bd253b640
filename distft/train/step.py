"""One optimizer step. The loss owns the numerator, the step owns the denominator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from distft.data.batches import Batch
from distft.runtime.process_group import World, all_reduce_sum
from distft.runtime.seeds import seed_for
from distft.strategies.engine import Engine
from distft.strategies.guard import poisoned
from distft.train.clock import Clock


@dataclass(frozen=True)
class StepResult:
    """What one step did to the whole global batch."""

    loss: float  # nats per target token
    accuracy: float  # share of targets that had the highest logit
    grad_norm: float  # before clipping
    is_skipped: bool  # loss or gradient was not finite, and no weight was changed
    sums: list[float]  # over all processes, of what each told
    seconds: dict[str, float]  # by phase


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
    Trap: whatever asks a tensor for its value makes the host wait for the device. It is done once, before the update,
    which the device then does while the next step is launched.
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
        norm = engine.norm()
    with clock.phase("communication"):
        own = torch.tensor([*map(float, told())], dtype=torch.float64, device=world.device)
        odd = (~norm.isfinite()).double().view(1)
        everyones = all_reduce_sum(torch.cat([totals, odd, own]))
        grad_norm, loss, correct, skips, *sums = torch.cat([norm.double().view(1), everyones]).tolist()
    if 0 < skips < world.size:
        raise RuntimeError(f"{skips:.0f} of {world.size} processes found the gradient not finite: replicas differ")
    with clock.phase("optimizer"):
        engine.update(grad_norm, max_norm)
    return StepResult(loss / targets, correct / targets, grad_norm, skips > 0, sums, clock.take())
