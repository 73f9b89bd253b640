"""Sums of each held-out row: its loss, target tokens and correct predictions, on all processes of a job.

The micro-batches do not depend on the number of processes, and are dealt to them. So a row's sums are those of one
process, up to the rounding of other matrix shapes.
Trap: a sharded strategy gathers weights in every forward, so all processes need the same number of batches.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distft.data.batches import Batch, make_batch, to_device
from distft.data.packing import MicroBatching
from distft.data.shards import Row, Rows
from distft.evaluate.job import LABELS
from distft.losses import OUTPUTS
from distft.losses.cross_entropy import argmax_of, logit_factor, of_chunk, rows_of_chunk
from distft.runtime import heartbeat
from distft.runtime.process_group import World
from distft.strategies.engine import Engine, Sums

Measure = Callable[[nn.Module, Batch], tuple[torch.Tensor, Sums]]  # sums: name -> [D], one of each document
Line = Mapping[str, Any]  # row, and the sums by name; of labels also `outputs` and `labels`, lists of numbers by unit
Limits = tuple[int | None, int | None]  # rows, or else tokens, of a forward


@dataclass(frozen=True)
class MemoryRows:
    """Rows in memory."""

    rows: Sequence[Row]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row.input_ids) for row in self.rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


@dataclass(frozen=True)
class PerTarget:
    """Head and cross-entropy without gradients: hidden states [T, H] give the loss of each target.

    targets: [T] int64. soft_cap: c in c tanh(logit / c), or None.
    """

    targets: torch.Tensor
    soft_cap: float | None = None

    def __call__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the losses, fp32 [T], and whether each target has the highest logit, bool [T]."""
        losses, hits = [hidden.new_zeros(0, dtype=torch.float32)], [torch.zeros(0, dtype=torch.bool).to(hidden.device)]
        size = rows_of_chunk(weight.shape[0], hidden.device)
        for start in range(0, len(hidden), size):
            chunk, targets = hidden[start : start + size], self.targets[start : start + size]
            logits = chunk @ weight.T if bias is None else torch.addmm(bias, chunk, weight.T)
            hits.append(argmax_of(logits) == targets)
            losses.append(of_chunk(logits, targets, 0.0, self.soft_cap, None)[0])
        return torch.cat(losses), torch.cat(hits)


def causal_lm(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
    """Returns zero, and loss, weight, correct and targets of each of the D documents, fp64 [D].

    loss: nats, each target times its weight.
    """
    causal: Any = model
    hidden = causal.base_model(**batch.inputs()).last_hidden_state  # [1, S, H]
    soft_cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    hidden, factor = hidden[0, batch.positions], logit_factor(causal.config)  # [T, H]
    head = causal.get_output_embeddings()
    losses, hits = head(hidden if factor == 1 else hidden * factor, PerTarget(batch.targets, soft_cap))
    weights = torch.ones_like(losses) if batch.weights is None else batch.weights
    document = torch.bucketize(batch.positions, batch.starts[1:].long(), right=True)  # [T]
    each = torch.stack([losses.double() * weights, weights.double(), hits.double(), torch.ones_like(losses).double()])
    sums = each.new_zeros(4, len(batch.lengths)).index_add_(1, document, each)
    names = ("loss", "weight", "correct", "targets")
    return losses.new_zeros(()), dict(zip(names, sums, strict=True))


@torch.no_grad()
def item_sums(
    engine: Engine,
    rows: Rows | MemoryRows,
    limits: Limits,
    world: World,
    measure: Measure = causal_lm,
) -> Iterator[Line]:
    """Yields the sums of this process's rows; every process iterates to the end.

    limits: rows, or else tokens, of a micro-batch. Each row is on one process, once.
    """
    engine.train(False)
    for share in shares(rows, limits, world):
        batch = to_device([make_batch([rows[int(row)] for row in share])], world.device)[0]
        heartbeat.enter("evaluation")
        found = {name: values.tolist() for name, values in engine.forward(batch, measure)[1].items()}
        for place, row in enumerate(share):
            yield {"row": int(row), **{name: values[place] for name, values in found.items()}}
    engine.train(True)


@torch.no_grad()
def unit_sums(engine: Engine, rows: Rows, limits: Limits, world: World) -> Iterator[Line]:
    """Yields the sums of the run's own loss for this process's rows, and the outputs and labels of their units.

    limits: rows, or else tokens, of a micro-batch. Every process iterates to the end.
    """
    engine.train(False)
    for share in shares(rows, limits, world):
        made = replace(make_batch([rows[int(row)] for row in share]), by_unit=True)
        batch = to_device([made], world.device)[0]
        heartbeat.enter("evaluation")
        value, sums = engine.forward(batch)
        row_of_unit = rows_of_units(batch).cpu()
        weights = torch.ones(batch.num_targets) if batch.weights is None else batch.weights
        units = {"loss": value, "weight": weights, **{name: each for name, each in sums.items() if name != OUTPUTS}}
        units = {name: each.detach().double().cpu() for name, each in units.items()}
        outputs = sums[OUTPUTS].double().cpu() if OUTPUTS in sums else None
        labels = None if batch.labels is None else batch.labels.double().cpu()
        for place, row in enumerate(share):
            own = row_of_unit == place
            line: dict[str, object] = {"row": int(row), "targets": int(own.sum())}
            line |= {name: float(each[own].sum()) for name, each in units.items()}
            if outputs is not None and labels is not None:
                line |= {OUTPUTS: outputs[own].tolist(), LABELS: labels[own].tolist()}
            yield line
    engine.train(True)


def rows_of_units(batch: Batch) -> torch.Tensor:
    """Returns the place in the batch of each unit's row, [U]: a unit is a row of several documents, or a target."""
    if batch.first_documents is not None:
        return torch.arange(len(batch.first_documents))
    return batch.documents


def shares(rows: Rows | MemoryRows, limits: Limits, world: World) -> list[np.ndarray]:
    """Returns the rows of each of this process's micro-batches; the same number on every process, some empty."""
    max_rows, max_tokens = limits
    sizes = np.ones(len(rows), dtype=np.int64) if max_rows else rows.lengths
    capacity = max_rows or max(max_tokens or 0, int(rows.lengths.max()))
    cut = MicroBatching(sizes, capacity, rows.lengths.astype(np.float64))
    batches = [each for [each] in cut.micro_batches(np.arange(len(rows)), 1) if len(each)]
    batches += [np.zeros(0, dtype=np.int64)] * (-len(batches) % world.size)
    return batches[world.rank :: world.size]


def write_sums(lines: Iterator[Line], file: Path) -> None:
    """Writes the lines to a file of this process, each as it comes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", buffering=1) as opened:
        for line in lines:
            opened.write(json.dumps(line) + "\n")
