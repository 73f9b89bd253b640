"""Each held-out row is scored once, for any number of processes, and no logits are kept."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from distft.data.batches import Batch
from distft.data.shards import Rows
from distft.evaluate.held_out import held_out, metrics_of
from distft.losses.cross_entropy import CrossEntropy
from distft.models.flops import Flops
from distft.runtime.process_group import World
from distft.tasks import Evaluated
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.train.feed import all_rows, make_cut
from tests.support.reference import dense
from tests.support.rows import write_rows

FLOPS = Flops(1.0, 1.0, 1.0, {None: 1})


def world_of(rank: int, size: int) -> World:
    return World(rank, size, rank, size, torch.device("cpu"))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("micro", [1, 3, 8])
@pytest.mark.parametrize("held", [2, 31])
def test_every_row_is_scored_once_with_equal_forwards_per_rank(
    world: int, micro: int, held: int, tmp_path: Path
) -> None:
    rows = Rows(write_rows(tmp_path, held_out=held), "eval")
    cut = make_cut(rows, micro, None, FLOPS)
    shares = [list(all_rows(rows, cut, world_of(rank, world))) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    targets = torch.cat([batch.targets for share in shares for batch in share])
    expected = torch.cat([torch.from_numpy(row.input_ids[1:][row.trained[1:]].astype("int64")) for row in rows])
    assert torch.equal(targets.sort().values, expected.sort().values)


class OneProcess:
    """An engine without a strategy that watches whether outputs of earlier batches are still alive."""

    def __init__(self) -> None:
        self.model, self.alive = dense("llama3_8b", 0), []

    def train(self, mode: bool) -> None:
        self.model.train(mode)

    def forward(self, batch: Batch, loss: Any = None) -> Any:
        gc.collect()
        assert sum(reference() is not None for reference in self.alive) <= 1, "outputs of earlier batches are kept"
        value, sums = CrossEntropy()(self.model, batch)
        self.alive.append(weakref.ref(value))
        return value, sums


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        rows = Rows(write_rows(tmp_path), "eval")
        engine: Any = OneProcess()
        metrics = held_out(engine, all_rows(rows, make_cut(rows, 3, None, FLOPS), world_of(0, 1)), world_of(0, 1))
    finally:
        dist.destroy_process_group()
    assert len(engine.alive) == 11 and metrics["target_tokens"] == int(rows.num_targets.sum())
    assert metrics["perplexity"] == pytest.approx(torch.tensor(metrics["loss"]).exp().item(), rel=1e-5)


def test_metrics_are_means_over_the_targets() -> None:
    nothing = np.zeros((0, 0))
    metrics = metrics_of(CAUSAL_LM, Evaluated(1.5, nothing, nothing), {"correct": 1.0}, 4)
    assert metrics == {"loss": 1.5, "perplexity": pytest.approx(4.4816891), "accuracy": 0.25, "target_tokens": 4}
    assert CAUSAL_LM.held_out(Evaluated(5000.0, nothing, nothing))["perplexity"] < float("inf")
