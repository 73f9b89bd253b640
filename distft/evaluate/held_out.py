"""Loss and metrics on held-out rows: fp64 sums over all units, each row counted once.

Some of a task's metrics follow from sums, such as accuracy. Others, such as AUROC, need the outputs of all units,
which are gathered, once each, and sorted, so that the metrics do not depend on the number of processes.

Trap: a sharded strategy gathers weights in every forward, so all processes need the same number of batches.
"""

from collections.abc import Iterable

import numpy as np
import torch

from distft.data.batches import Batch
from distft.losses import OUTPUTS
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum, gather_rows
from distft.strategies.engine import Engine
from distft.tasks import Evaluated, Sums, Task
from distft.tasks.causal_lm import TASK as CAUSAL_LM

_NONE = np.zeros((0, 0))


@torch.no_grad()
def held_out(engine: Engine, batches: Iterable[Batch], world: World, task: Task = CAUSAL_LM) -> dict[str, float | int]:
    """Returns the metrics of all processes' batches together: `metrics_of`.

    batches: this process's share, the same number on every process. No logits of tokens are kept, and the metrics do
    not depend on how the rows are split over processes and batches.
    """
    engine.train(False)
    totals = torch.zeros(0, dtype=torch.float64, device=world.device)  # weight, units, loss, the loss's further sums
    units: list[torch.Tensor] = []  # of each batch: labels and outputs, [U, L + C]
    names: list[str] = []
    label_count = 0
    for batch in batches:
        heartbeat.enter("evaluation")
        value, sums = engine.forward(batch)
        names = [name for name in sums if name != OUTPUTS]
        whole = torch.stack([value.double(), *(sums[name].double() for name in names)])
        if not len(totals):
            totals = torch.zeros(2 + len(whole), dtype=torch.float64, device=world.device)
        totals[2:] += whole
        totals[0] += batch.weight  # in place: a tensor made of the host's numbers would make the host wait
        totals[1] += batch.num_targets
        if task.gathers and batch.labels is not None:
            label_count = batch.labels.shape[1]
            units.append(torch.cat([batch.labels.double(), sums[OUTPUTS].double()], 1))
    engine.train(True)
    weight, count, loss, *rest = all_reduce_sum(totals).tolist()
    found = Evaluated(loss / weight, _NONE, _NONE)
    if task.gathers:
        found = _gathered(loss / weight, units, label_count, world)
    return metrics_of(task, found, dict(zip(names, rest, strict=True)), int(count))


def metrics_of(task: Task, found: Evaluated, sums: Sums, count: int) -> dict[str, float | int]:
    """Returns loss per unit, the task's metrics, and the number of units as target_tokens.

    sums: of the loss, over `count` units.
    """
    return {"loss": found.loss, **task.held_out(found), **task.metrics(sums, count), "target_tokens": count}


def _gathered(loss: float, units: list[torch.Tensor], label_count: int, world: World) -> Evaluated:
    """Returns the labels and outputs of all processes' units, sorted; a collective."""
    mine = torch.cat(units) if units else torch.zeros(0, 0, dtype=torch.float64, device=world.device)
    whole = gather_rows(mine, world).cpu().numpy()
    [label_count] = gather_rows(torch.tensor([[float(label_count)]], device=world.device), world).amax(0).int().tolist()
    whole = whole[np.lexsort(whole.T)] if whole.size else whole
    return Evaluated(loss, whole[:, label_count:], whole[:, :label_count])
