"""Bytes per process of what lives through the whole run: weights, gradients and optimizer state, by strategy.

Not counted: activations, gathered layers, communication buckets, the allocator's gaps. What is frozen has neither
gradients nor optimizer state, and under ZeRO no fp32 master weights.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import yaml

FP32_BYTES = 4
_MOMENTS = {"AdamW": 2, "Adam": 2, "RAdam": 2, "NAdam": 2, "Adamax": 2, "Adadelta": 2, "Adagrad": 1, "Rprop": 2}


def optimizer_bytes(optimizer: Mapping[str, Any]) -> int | None:
    """Returns the bytes of optimizer state per parameter, all fp32; None for an optimizer this table does not know."""
    name = str(optimizer["_target_"]).rpartition(".")[2]
    if name == "SGD":
        moments = 1 if optimizer.get("momentum") else 0
    elif name == "RMSprop":
        moments = 1 + bool(optimizer.get("momentum")) + bool(optimizer.get("centered"))
    elif name in _MOMENTS:
        moments = _MOMENTS[name] + bool(optimizer.get("amsgrad"))
    else:
        return None
    return FP32_BYTES * moments


def memory_of(
    strategy: Mapping[str, Any],
    *,
    parameters: int,
    trained: int,
    state_bytes: int,
    compute_bytes: int,
    world: int,
    node: int,
) -> dict[str, int] | None:
    """Returns bytes per process: parameters, gradients, optimizer, total, and the part of it in host memory.

    trained: parameters that are not frozen. state_bytes: of the optimizer, for each of these.
    compute_bytes: 4 in fp32, 2 in bf16. node: processes of a node.
    None for a strategy that this module does not know.
    """
    layout, stage = strategy.get("layout"), strategy.get("stage")
    if layout is not None:
        shards = {"ddp": 1, "fsdp": world, "hsdp": strategy.get("shard_size") or node}.get(layout)
        if shards is None:
            return None
        share = ceil(trained / shards)
        return _sum(FP32_BYTES * ceil(parameters / shards), FP32_BYTES * share, state_bytes * share)
    if stage not in (1, 2, 3):
        return None
    share = ceil(trained / world)
    working = compute_bytes * (ceil(parameters / world) if stage == 3 else parameters)  # beside the fp32 master weights
    gradients = FP32_BYTES * share
    if stage == 1:  # whole while they are added up; in bf16 this process's share lies beside them while they are sent
        gradients = FP32_BYTES * trained + (gradients if compute_bytes < FP32_BYTES else 0)
    offload = bool(strategy.get("offload"))
    if offload:
        gradients += FP32_BYTES * share if stage == 3 else 0  # the host's own copy
    on_device = working + (gradients if stage < 3 else 0)
    counted = _sum(working + FP32_BYTES * share, gradients, state_bytes * share)
    if offload:
        counted["host"] = counted["total"] if stage == 3 else counted["total"] - on_device
    return counted


def _sum(parameters: int, gradients: int, optimizer: int) -> dict[str, int]:
    total = parameters + gradients + optimizer
    return {"parameters": parameters, "gradients": gradients, "optimizer": optimizer, "total": total, "host": 0}


def memory_table(chosen: str, strategy: Mapping[str, Any], folder: Path, **sizes: int) -> dict[str, dict[str, int]]:
    """Returns strategy -> bytes for the chosen one as configured and every other one in `folder` as shipped."""
    shipped = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
    table = {name: memory_of(shipped[name] if name != chosen else strategy, **sizes) for name in shipped}
    return {name: counted for name, counted in table.items() if counted is not None}
