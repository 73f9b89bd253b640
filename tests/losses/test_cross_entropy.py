"""A loss is a sum over targets, additive over any split of a batch, whatever the model's class takes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distft.data.batches import collate, make_batch
from distft.data.shards import Rows
from distft.losses.cross_entropy import CrossEntropy
from tests.support.reference import dense
from tests.support.rows import write_rows


@pytest.mark.parametrize("name", ["llama3_8b", "gpt2"])
def test_the_sum_over_rows_is_the_sum_over_batches(name: str, tmp_path: Path) -> None:
    rows, model, loss = Rows(write_rows(tmp_path), "train"), dense(name, 0).eval(), CrossEntropy()
    whole, _ = loss(model, collate(rows, np.arange(6)))
    parts = [loss(model, collate(rows, np.asarray(part)))[0] for part in ([0], [1, 2], [3, 4, 5])]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_it_is_the_models_own_loss_times_its_targets(tmp_path: Path) -> None:
    rows, model = Rows(write_rows(tmp_path), "train"), dense("llama3_8b", 0).eval()
    row = rows[0]
    ids = torch.from_numpy(row.input_ids.astype("int64"))[None]
    labels = torch.where(torch.from_numpy(row.trained), ids, -100)
    own = model(input_ids=ids, labels=labels).loss
    mine, sums = CrossEntropy()(model, collate(rows, np.asarray([0])))
    assert mine.item() / rows.num_targets[0] == pytest.approx(own.item(), rel=1e-6)
    logits = model(input_ids=ids).logits[0, :-1][torch.from_numpy(row.trained[1:])]
    assert sums["correct"] == (logits.argmax(-1) == labels[0, 1:][labels[0, 1:] >= 0]).sum()


def test_no_target_gives_zero_and_a_gradient_of_zero() -> None:
    model = dense("llama3_8b", 0)
    value, _ = CrossEntropy()(model, make_batch([]))
    value.backward()
    assert value.item() == 0 and all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_label_smoothing_is_for_training_only(tmp_path: Path) -> None:
    rows, model = Rows(write_rows(tmp_path), "train"), dense("llama3_8b", 0)
    batch = collate(rows, np.arange(4))
    smoothed = CrossEntropy(label_smoothing=0.1)
    assert smoothed(model.eval(), batch)[0] == CrossEntropy()(model, batch)[0]
    logits = model(**batch.inputs()).logits[0, batch.positions]
    expected = F.cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=0.1)
    assert smoothed(model.train(), batch)[0].item() == pytest.approx(expected.item(), rel=1e-6)
