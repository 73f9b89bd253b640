"""Parameter groups: weight decay acts on matrices only, as in GPT-2's and Llama's recipes."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import torch
from torch import nn

Group = dict[str, list[nn.Parameter] | float]  # as torch's optimizers take it


def decay_groups(parameters: Iterable[tuple[nn.Parameter, int]]) -> list[Group]:
    """Splits trainable parameters, given with their number of dims, into decayed matrices and undecayed vectors.

    The caller gives the number of dims, since a partitioned parameter may appear empty.
    """
    trained = [(parameter, dims) for parameter, dims in parameters if parameter.requires_grad]
    matrices = [parameter for parameter, dims in trained if dims >= 2]
    vectors = [parameter for parameter, dims in trained if dims < 2]
    groups: list[Group] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's learning rate to `factor` times its initial one; returns that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optimizer.param_groups[0]["lr"]


def check_effective(optimizer: torch.optim.Optimizer, requested: Mapping[str, object]) -> dict[str, object]:
    """Returns the live optimizer's settings as plain JSON; RuntimeError where one differs from `requested`.

    requested: the config's optimizer group. Settings that a user's optimizer stores elsewhere cannot be read back, and
    are not returned.
    """
    live = {key: _plain(value) for key, value in optimizer.defaults.items()}
    is_torchs = str(requested.get("_target_", "torch.optim.")).startswith("torch.optim.")
    for key, value in requested.items():
        if not key.startswith("_") and (key in live or is_torchs) and live.get(key) != value:
            raise RuntimeError(
                f"optimizer.{key}={value} is not in effect: the optimizer has {live.get(key, 'nothing')}"
            )
    return live


def _plain(value: Any) -> Any:
    """Returns a JSON value: tensors as numbers, other objects as their text."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
