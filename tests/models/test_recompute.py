"""Activations that are computed again: fewer are kept, no number changes, and no dear operation is done twice."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode

from distft.data.batches import Batch, make_batch
from distft.data.shards import Row
from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import RECOMPUTED, blocks, recompute
from tests.support.reference import dense


def trained(name: str, what: str, batch: Batch) -> tuple[list[torch.Tensor], int, int]:
    """Returns gradients, operations of matrix products and attention, and the bytes kept for the backward pass."""
    torch.manual_seed(0)
    model = dense(name, 0).train()
    recompute(model, what)
    kept, operations = MemTracker(), FlopCounterMode(display=False)
    kept.track_external(model)
    with operations, kept:
        value, _ = CrossEntropy()(model, batch)
        now: Any = kept.get_tracker_snapshot("current")[torch.device("cpu")]
        value.backward()
    activations = next(size for kind, size in now.items() if "ACT" in str(kind))
    return [parameter.grad for parameter in model.parameters()], operations.get_total_flops(), activations


@pytest.mark.parametrize("name", ["llama3_8b", "gemma3_4b", "gpt2"])
def test_nothing_changes_but_what_is_kept(name: str) -> None:
    batch = make_batch([Row(np.arange(length, dtype=np.int32), np.arange(length) % 4 == 0) for length in (40, 17, 7)])
    done = {what: trained(name, what, batch) for what in RECOMPUTED}
    gradients, operations, kept = done["none"]
    for what in ("selective", "full"):
        for expected, gradient in zip(gradients, done[what][0], strict=True):
            assert torch.equal(expected, gradient)
    assert done["selective"][1] == operations
    assert operations * 1.2 < done["full"][1] <= operations * 4 / 3
    assert done["full"][2] < done["selective"][2] < 0.8 * kept


@pytest.mark.parametrize("what", ["selective", "full"])
def test_what_is_hooked_to_a_layer_runs_once_though_the_layer_runs_again(what: str) -> None:
    model = dense("llama3_8b", 0).train()
    recompute(model, what)
    layers, calls, runs = list(blocks(model).values()), [], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
        next(layer.children()).register_forward_pre_hook(lambda *_: runs.append(1))
    value, _ = CrossEntropy()(model, make_batch([Row(np.arange(9, dtype=np.int32), np.arange(9) % 4 == 0)]))
    value.backward()
    assert (len(calls), len(runs)) == (len(layers), 2 * len(layers))
