"""Bytes per process of what lives through the whole run: weights, gradients and optimizer state, by strategy; and
under FSDP2, which is ddp, fsdp and hsdp, what a step adds to them beside activations.

Not counted: activations, what ZeRO gathers, communication buckets, the allocator's gaps. What is frozen has neither
gradients nor optimizer state nor fp32 master weights.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from distft.plan.parameters import Parts

FP32_BYTES = 4
_MOMENTS = {"AdamW": 2, "Adam": 2, "RAdam": 2, "NAdam": 2, "Adamax": 2, "Adadelta": 2, "Adagrad": 1, "ASGD": 1}


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
    parts: Parts | None = None,
) -> dict[str, int] | None:
    """Returns bytes per process: parameters, gradients, optimizer, total of these, and the part of it in host memory;
    `gathered` on top of the total, where it is known.

    trained: parameters that are not frozen. state_bytes: of the optimizer, for each of these.
    compute_bytes: 4 in fp32, 2 in bf16. node: processes of a node. parts: of the model, without adapters.
    None for a strategy that this module does not know.
    """
    layout, stage = strategy.get("layout"), strategy.get("stage")
    if layout is not None:
        shards = {"ddp": 1, "fsdp": world, "hsdp": strategy.get("shard_size") or node}.get(layout)
        if shards is None:
            return None
        share, frozen = ceil(trained / shards), ceil((parameters - trained) / shards)
        counted = _sum(FP32_BYTES * share + compute_bytes * frozen, FP32_BYTES * share, state_bytes * share)
        if parts is not None:
            adapters = trained if trained < parameters else None
            counted["gathered"] = gathered_bytes(parts, compute_bytes, is_sharded=shards > 1, adapters=adapters)
        return counted
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


def gathered_bytes(parts: Parts, compute_bytes: int, *, is_sharded: bool, adapters: int | None) -> int:
    """Returns the most that FSDP2 holds beside state and gradients in a step of three or more micro-batches: weights as
    they are computed with, and gradients of what lies outside of the blocks.

    That is one group of its own, the root, whole through forward and backward. Blocks are gathered one at a time, the
    next one ahead; with one shard nothing is freed, and each weight that is trained has a copy in the compute dtype.
    adapters: parameters of adapters; None: the model itself is trained.
    """
    root, block, head = compute_bytes * parts.outside, compute_bytes * parts.block, FP32_BYTES * parts.head
    embedding = compute_bytes * parts.head if parts.tied else 0
    if not is_sharded:
        if adapters is not None:
            return compute_bytes * adapters
        copies = compute_bytes * parts.total
        return max(copies + head, root + 3 * embedding)  # a tied weight's two gradients, and their sum
    if adapters is not None:
        return max(2 * root, root + 3 * block)  # as it arrives, and as it is laid out
    reduced = FP32_BYTES * parts.outside  # the root's gradients as they are sent, kept until the next are
    of_blocks = root + compute_bytes * parts.head + 3 * block + 2 * FP32_BYTES * parts.block  # of two, while sent
    return max(root + reduced + max(head, root) + block, root + 3 * embedding, of_blocks)


def _sum(parameters: int, gradients: int, optimizer: int) -> dict[str, int]:
    total = parameters + gradients + optimizer
    return {"parameters": parameters, "gradients": gradients, "optimizer": optimizer, "total": total, "host": 0}


def memory_table(chosen: str, strategy: Mapping[str, Any], folder: Path, **sizes: Any) -> dict[str, dict[str, int]]:
    """Returns strategy -> bytes for the chosen one as configured and every other one in `folder` as shipped."""
    shipped = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
    table = {name: memory_of(shipped[name] if name != chosen else strategy, **sizes) for name in shipped}
    return {name: counted for name, counted in table.items() if counted is not None}
