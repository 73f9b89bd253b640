"""Loss, perplexity and accuracy on held-out rows: fp64 sums over all targets, each row counted once.

Trap: a sharded strategy gathers weights in every forward, so all processes need the same number of batches.
"""

import math
from collections.abc import Iterable

import torch

from distft.data.batches import Batch
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum
from distft.strategies.engine import Engine

_LARGEST_EXPONENT = 700.0  # exp of more overflows fp64


@torch.no_grad()
def held_out(engine: Engine, batches: Iterable[Batch], world: World) -> dict[str, float | int]:
    """Returns the metrics of all processes' batches together: `metrics_of`.

    batches: this process's share, the same number on every process. No logits are kept, and the metrics do not depend
    on how the rows are split over processes and batches.
    """
    engine.train(False)
    totals = torch.zeros(4, dtype=torch.float64, device=world.device)  # loss, correct, weight, targets
    for batch in batches:
        heartbeat.enter("evaluation")
        value, sums = engine.forward(batch)
        totals[:2] += torch.stack([value, sums["correct"]])
        totals[2] += batch.weight
        totals[3] += len(batch.targets)
    engine.train(True)
    loss, correct, weight, targets = all_reduce_sum(totals).tolist()
    return metrics_of(loss, correct, int(targets), weight)


def metrics_of(loss: float, correct: float, targets: int, weight: float | None = None) -> dict[str, float | int]:
    """Returns loss in nats per target token, perplexity, accuracy and target_tokens.

    loss, correct: sums over `targets` target tokens. weight: sum of their weights; None: all 1.
    """
    mean = loss / (targets if weight is None else weight)
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, _LARGEST_EXPONENT)),
        "accuracy": correct / targets,
        "target_tokens": targets,
    }
