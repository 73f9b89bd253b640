"""The reference for strategies: a plain loop without distft's step, engine or batches.

It reads all rows of a step in one micro-batch, with unequal target counts and an attention mask. It starts from the
strategies' fp32 weights and computes in fp64, so its difference from a strategy is that strategy's rounding error. In
fp32 its own error was up to 1.4e-5 of a weight, and a bound of 2e-5 tested the sum of both.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from distft.data.order import Order
from distft.data.shards import Row
from distft.models.heads import make_foldable
from distft.models.init import FreshWeights
from tests.support.rows import open_rows
from tests.support.train_cases import ADAMW, GLOBAL_ROWS, tiny_model


def dense(name: str, seed: int, **architecture: Any) -> Any:
    """Returns the tiny model with its weights in memory."""
    empty = tiny_model(name, **architecture)
    source = FreshWeights(empty, seed)
    model = type(empty)(empty.config)
    make_foldable(model)
    model.tie_weights()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(source.read(key, tuple(parameter.shape), 0, parameter.numel()).view(parameter.shape))
    return model


class InDouble(TorchFunctionMode):
    """Replaces fp32 by fp64: a model's norms, angles and softmax request fp32 explicitly."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args, kwargs = tree_map(lambda value: torch.float64 if value is torch.float32 else value, (args, kwargs or {}))
        return func(*args, **kwargs)


def train_reference(
    name: str,
    folder: Path,
    steps: int = 5,
    seed: int = 0,
    max_norm: float = 1.0,
    architecture: dict[str, Any] | None = None,
    **adamw: Any,
) -> dict[str, Any]:
    """Returns losses and gradient norms [steps, 2] and the final fp64 weights by name."""
    return train_dense(dense(name, seed, **(architecture or {})), folder, steps, seed, max_norm, **adamw)


def train_dense(
    model: Any, folder: Path, steps: int, seed: int = 0, max_norm: float = 1.0, **adamw: Any
) -> dict[str, Any]:
    """Does the same for the parameters of `model` that require a gradient."""
    with InDouble():
        return train_on(next_tokens, model.double().train(), folder, steps, seed, max_norm, ADAMW | adamw)


def next_tokens(model: Any, picked: list[Row]) -> torch.Tensor:
    """Returns the mean cross-entropy over the targets of the rows."""
    ids, mask = padded(picked)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(picked):
        n = len(row.input_ids)
        labels[i, :n][torch.from_numpy(row.trained)] = ids[i, :n][torch.from_numpy(row.trained)]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def padded(picked: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the token ids of rows, padded on the right by 0, and the mask of the real ones, int64 [B, S]."""
    width = max(len(row.input_ids) for row in picked)
    ids = torch.zeros(len(picked), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(picked):
        n = len(row.input_ids)
        ids[i, :n] = torch.from_numpy(row.input_ids.astype("int64"))
        mask[i, :n] = 1
    return ids, mask


def train_on(
    loss_of: Callable[[Any, list[Row]], torch.Tensor],
    model: Any,
    folder: Path,
    steps: int,
    seed: int,
    max_norm: float,
    adamw: dict[str, Any],
) -> dict[str, Any]:
    """Trains with the loss that `loss_of` gives for the rows of a whole step."""
    rows = open_rows(folder, "train")
    order = Order(len(rows), seed)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    matrices = [p for p in trained.values() if p.ndim >= 2]
    vectors = [p for p in trained.values() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **adamw)
    done = []
    for step in range(steps):
        picked = [rows[int(i)] for i in order.rows(step * GLOBAL_ROWS, (step + 1) * GLOBAL_ROWS)]
        loss = loss_of(model, picked)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
        done.append([loss.item(), norm.item()])
    return {"steps": done, "weights": {key: p.detach() for key, p in trained.items()}}
