"""Parameter groups: weight decay acts on matrices only, as in GPT-2's and Llama's recipes."""

from collections.abc import Iterable, Mapping
from math import isfinite
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


def check_effective(optimizer: torch.optim.Optimizer, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the live optimizer's settings as plain JSON; RuntimeError when one of `asked` has another value there.

    asked: the config's optimizer group. What an optimizer of one's own, or a function that makes one, keeps elsewhere
    cannot be read back: it is not among what is returned.
    """
    live = {key: _plain(value) for key, value in optimizer.defaults.items()}
    is_torchs = str(asked.get("_target_", "torch.optim.")).startswith("torch.optim.")
    for key, value in asked.items():
        if not key.startswith("_") and (key in live or is_torchs) and live.get(key) != value:
            raise RuntimeError(f"optimizer.{key}={value} was not taken over: {live.get(key, 'nothing')} is in force")
    return live


def _plain(value: Any) -> Any:
    """Returns what JSON can hold: tensors as numbers, and what is neither number, text nor list by its name."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
