"""Parameter groups: weight decay acts on matrices only, as in GPT-2's and Llama's recipes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def decay_groups(parameters: Iterable[tuple[nn.Parameter, int]]) -> list[dict[str, Any]]:
    """Splits trainable parameters, given with their number of dims, into decayed matrices and undecayed vectors.

    The numbers of dims come from the caller, since a partitioned parameter may show itself as empty.
    """
    trained = [(parameter, dims) for parameter, dims in parameters if parameter.requires_grad]
    matrices = [parameter for parameter, dims in trained if dims >= 2]
    vectors = [parameter for parameter, dims in trained if dims < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's rate to `factor` of the one it was made with; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optimizer.param_groups[0]["lr"]


def check_in_force(optimizer: torch.optim.Optimizer, asked: dict[str, Any]) -> dict[str, Any]:
    """Returns the live optimizer's settings; RuntimeError when one of `asked` is not among them as it was set."""
    live = {key: list(value) if isinstance(value, tuple) else value for key, value in optimizer.defaults.items()}
    for key, value in asked.items():
        if live.get(key) != value:
            raise RuntimeError(f"optimizer.{key}={value} was not taken over: {live.get(key, 'nothing')} is in force")
    return live
