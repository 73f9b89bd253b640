"""Loss, perplexity and accuracy on held-out rows: fp64 sums over all targets, each row counted once."""

import math
from collections.abc import Iterable

import torch

from distft.data.batches import Batch
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum, on_device
from distft.strategies.engine import Engine


@torch.no_grad()
def held_out(engine: Engine, batches: Iterable[Batch], world: World) -> dict[str, float | int]:
    """Returns the metrics of all processes' batches together; they keep no logits and depend on no split.

    batches: this process's share, as many on every process.
    """
    engine.train(False)
    totals = torch.zeros(2, dtype=torch.float64, device=world.device)  # loss, correct
    own_targets = 0
    for batch in batches:
        heartbeat.enter("evaluation")
        value, sums = engine.forward(batch)
        totals += torch.stack([value, sums["correct"]])
        own_targets += len(batch.targets)
    engine.train(True)
    loss, correct, targets = all_reduce_sum(torch.cat([totals, on_device([own_targets], world.device)])).tolist()
    mean = loss / targets
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "accuracy": correct / targets,
        "target_tokens": int(targets),
    }
