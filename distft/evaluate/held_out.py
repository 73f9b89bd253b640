"""Loss, perplexity and accuracy on held-out rows: fp64 sums over all targets, each row counted once.

Trap: a sharded strategy gathers weights in every forward, so all processes need the same number of batches.
"""

import math
from collections.abc import Iterable

import torch

from distft.data.batches import Batch
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum, on_device
from distft.strategies.engine import Engine

_LARGEST_EXPONENT = 700.0  # exp of more overflows fp64


@torch.no_grad()
def held_out(engine: Engine, batches: Iterable[Batch], world: World) -> dict[str, float | int]:
    """Returns the metrics of all processes' batches together: `metrics_of`.

    batches: this process's share, the same number on every process. No logits are kept, and the metrics do not depend
    on how the rows are split over processes and batches.
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
    return metrics_of(loss, correct, int(targets))


def metrics_of(loss: float, correct: float, targets: int) -> dict[str, float | int]:
    """Returns loss in nats per target token, perplexity, accuracy and target_tokens.

    loss, correct: sums over `targets` target tokens.
    """
    mean = loss / targets
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, _LARGEST_EXPONENT)),
        "accuracy": correct / targets,
        "target_tokens": targets,
    }
