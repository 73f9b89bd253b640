"""Rows of tokens with a teacher's distributions at the targets, and the reference of distillation in plain PyTorch.

The distributions are random; tests/train/test_teacher.py tests those of a real teacher.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distft.data.shards import Row, Rows, ShardWriter
from tests.support.reference import padded
from tests.support.rows import teacher_file

VOCABULARY, K = 256, 5
OF_DISTILLATION: dict[str, dict[str, Any]] = {
    "distillation": {"teacher": "FOLDER", "kl_weight": 0.7, "temperature": 2.0, "top_k": K}
}


def write_taught(folder: Path, train: int = 40, held_out: int = 31) -> Path:
    """Writes rows of 4 to 23 random tokens, every third with weights of its tokens, and the distributions."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(3)
    for split, count in (("train", train), ("eval", held_out)):
        writer = ShardWriter(folder, split)
        for i in range(count):
            length = int(random.integers(4, 24))
            trained = np.arange(length) >= length - int(random.integers(1, length))
            weights = (0.5 + random.random(length)).astype(np.float32) if i % 3 == 0 else None
            writer.add(Row(random.integers(1, VOCABULARY, length).astype(np.int32), trained, weights), f"{split}-{i}")
        writer.close()
        targets = int(Rows(folder, split).num_targets.sum())
        ids = np.argsort(random.random((targets, VOCABULARY)), 1)[:, :K].astype(np.int32)
        shares = random.dirichlet(np.ones(K + 1), targets)
        np.savez(teacher_file(folder, split), ids=ids, log_probabilities=np.log(shares).astype(np.float32))
    return folder


def distillation(settings: dict[str, Any]) -> Callable[[Any, list[Row]], torch.Tensor]:
    """Returns (model, rows of a step) -> mean loss over the targets, each times its weight."""
    share, temperature = settings["kl_weight"], settings["temperature"]

    def loss_of(model: Any, picked: list[Row]) -> torch.Tensor:
        ids, mask = padded(picked)
        logits = model(input_ids=ids, attention_mask=mask).logits
        total, denominator = torch.zeros((), dtype=torch.float64), 0.0
        for of_row, row in zip(logits, picked, strict=True):
            at = np.flatnonzero(row.trained[1:])  # of the tokens before the targets
            weights = np.ones(len(row.input_ids)) if row.weights is None else row.weights
            weight, teacher = torch.from_numpy(weights[at + 1]).double(), row.teacher
            assert teacher is not None
            chosen = torch.from_numpy(teacher.ids).long()
            p = torch.from_numpy(teacher.log_probabilities).double().exp()
            q = (of_row[at] / temperature).softmax(-1)
            inside = q.gather(1, chosen)
            merged = torch.cat([inside, 1 - inside.sum(1, keepdim=True)], 1)
            kl = (p * (p / merged).log()).sum(1)
            targets = torch.from_numpy(row.input_ids[at + 1]).long()
            nll = -of_row[at].log_softmax(-1).gather(1, targets[:, None])[:, 0]
            total = total + (weight * ((1 - share) * nll + share * temperature**2 * kl)).sum()
            denominator += float(weight.sum())
        return total / denominator

    return loss_of
