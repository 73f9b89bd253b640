"""What a run computes and sends, how long it takes, and what it costs.

Operations are those of matrix products, as in distft.models.flops, from the architecture alone. Bytes on the wire are
those of each strategy's collectives over a ring. A step takes its operations at the speed that the hardware reaches, or
its communication where that is slower, and the update of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from distft.config.parts import Strategy
from distft.plan.activations import Batch, Widths
from distft.plan.hardware import Hardware
from distft.plan.memory import FP32_BYTES, Architecture, Sizes, linear_layers
from distft.run import Plan

GIB = 2**30
Bound = Literal["compute", "communication", "update"]
_MEMORY = ("parameters", "gradients", "optimizer", "activations", "loss", "gathered", "host", "peak")


@dataclass(frozen=True)
class Needs:
    """The needs of a run; None for what is unknown without hardware, data or architecture."""

    memory_gib: Mapping[str, float]  # of a process: parameters, gradients, optimizer, activations, loss, gathered, ...
    flops: float | None  # of all steps, without recomputation
    bytes: float | None  # that a process sends in one step
    seconds: float | None = None  # of all steps
    tokens_per_second: float | None = None  # of all processes
    mfu: float | None = None  # model FLOPs utilisation
    device_hours: float | None = None
    price: float | None = None
    bound: Bound | None = None  # what takes most of a step


@dataclass(frozen=True)
class Work:
    """The forward passes of a run."""

    flops: float  # of all forwards
    backward: float  # operations of a backward pass for one of a forward
    again: float  # share of the forward that is computed again
    of_blocks: float  # share of the forward in the repeated layers


def work_of(plan: Plan, model_dir: Path | None, facts: Architecture, batch: Batch) -> Work | None:
    """Returns the operations of a run; None while its rows or architecture are unknown. facts: of config.json."""
    layers = linear_layers(model_dir, facts)
    if not layers or not plan.tokens:
        return None
    widths = Widths.of(facts)
    per_token = 2.0 * sum(out * inner for _, (out, inner) in layers) + 2.0 * (plan.adapters or 0)
    outputs = 2.0 * widths.vocabulary * widths.hidden
    windows = _windows(facts, widths)
    pairs = sum(count * min(plan.attended, window or plan.attended) for window, count in windows.items())
    of_blocks = per_token * plan.tokens + 4.0 * widths.queries * pairs * plan.tokens
    whole = of_blocks + outputs * (plan.targets or plan.tokens)
    share = of_blocks / whole
    return Work(whole, 2.0 if plan.adapters is None else 1.0, share if batch.recomputed == "full" else 0.0, share)


def _windows(facts: Mapping[str, Any], widths: Widths) -> dict[int | None, int]:
    """Returns attention window -> number of layers; None: all tokens."""
    window = facts.get("sliding_window") if facts.get("use_sliding_window", True) else None
    every = facts.get("sliding_window_pattern")
    kinds = facts.get("layer_types")
    if not window:
        return {None: widths.layers}
    if kinds:
        sliding = sum(kind == "sliding_attention" for kind in kinds)
    else:
        sliding = widths.layers - widths.layers // every if every else widths.layers
    return {window: sliding, None: widths.layers - sliding}


def bytes_sent(strategy: Strategy, sizes: Sizes, accumulation: int) -> tuple[float, float] | None:
    """Returns the bytes that one process sends in a step within its machine, and to others; None for an architecture
    that is unknown here. A group of processes that spans machines counts as the slower of the two.

    A ring sends (n - 1) / n of a gathered or scattered tensor, and twice that to reduce a whole one. The collectives
    are counted in tests/train/test_step.py.
    """
    parts = sizes.parts
    if sizes.world == 1 or parts is None:
        return None if parts is None else (0.0, 0.0)

    def all_of(sent: float) -> tuple[float, float]:
        return (sent, 0.0) if sizes.world <= sizes.node else (0.0, sent)

    ring = (sizes.world - 1) / sizes.world
    gradients, is_full = FP32_BYTES * sizes.trained, sizes.trained == sizes.parameters
    whole = sizes.compute_bytes * parts.total
    in_blocks = sizes.compute_bytes * (parts.total - parts.outside)
    if "layout" in strategy.model_fields_set:
        gathered = whole - in_blocks + accumulation * (2 * in_blocks - sizes.compute_bytes * parts.block)
        if strategy.layout == "ddp":
            return all_of(2 * ring * gradients)
        if strategy.layout == "fsdp":
            return all_of(ring * (gathered + accumulation * gradients))
        shards = strategy.shard_size or sizes.node
        inner, outer = (shards - 1) / shards, (sizes.world // shards - 1) / max(1, sizes.world // shards)
        sharded, replicated = inner * (gathered + accumulation * gradients), 2 * outer * gradients / shards
        if sizes.world <= sizes.node or shards > sizes.node:
            return all_of(sharded + replicated)
        return sharded, replicated
    if strategy.stage == 3:
        return all_of(ring * accumulation * (2 * whole + gradients))
    updated = whole if is_full else sizes.compute_bytes * sizes.trained
    return all_of(ring * (updated + (accumulation if strategy.stage == 2 else 1) * gradients))


@dataclass(frozen=True)
class Pace:
    """The time of one step on some hardware."""

    seconds: float
    bound: Bound
    hardware: Hardware
    compute_bytes: int


def pace_of(
    work: Work, sent: tuple[float, float], updated: float, plan: Plan, batch: Batch, hardware: Hardware
) -> Pace:
    """Returns the time of a step.

    sent: bytes of a process within a machine, and to others. updated: bytes that its update reads and writes.
    """
    flops = work.flops * (1 + work.backward + work.again) / num_steps(plan) / plan.world
    computing = flops / hardware.flops(batch.compute_bytes)
    sending = sent[0] / (1e9 * hardware.link_gb_s) + sent[1] / (1e9 * hardware.network_gb_s)
    updating = updated / (1e9 * hardware.memory_gb_s)
    hidden = min(computing, hardware.overlap * sending)
    parts: dict[Bound, float] = {"compute": computing, "communication": sending, "update": updating}
    slowest = max(parts, key=lambda each: parts[each])
    return Pace(computing + sending - hidden + updating, slowest, hardware, batch.compute_bytes)


def num_steps(plan: Plan) -> int:
    """Returns the steps that the plan's rows and tokens are of."""
    return max(1, plan.steps - plan.base_step)


def updated_bytes(strategy: Strategy, sizes: Sizes) -> float:
    """Returns the bytes that an update of this process's weights reads and writes: fp32 weights and optimizer state
    both ways, the gradient once to clip and once to update."""
    if "layout" in strategy.model_fields_set:
        shards = {"ddp": 1, "fsdp": sizes.world, "hsdp": strategy.shard_size or sizes.node}[strategy.layout]
    else:
        shards = sizes.world
    return ceil(sizes.trained / shards) * (2 * FP32_BYTES + 2 * sizes.state_bytes + 2 * FP32_BYTES)


def needs_of(
    work: Work | None, counted: Mapping[str, int], sent: float | None, plan: Plan, pace: "Pace | None"
) -> Needs:
    """Returns the needs of a run. counted: plan.memory of its strategy. pace: None without hardware."""
    memory = {name: counted[name] / GIB for name in _MEMORY if name in counted}
    flops = None if work is None else work.flops * (1 + work.backward)
    if pace is None or flops is None:
        return Needs(memory, flops, sent)
    seconds = pace.seconds * num_steps(plan)
    hours, price = seconds * plan.world / 3600, pace.hardware.price_per_hour
    return Needs(
        memory_gib=memory,
        flops=flops,
        bytes=sent,
        seconds=seconds,
        tokens_per_second=plan.tokens / seconds,
        mfu=flops / (seconds * plan.world * pace.hardware.peak_flops(pace.compute_bytes)),
        device_hours=hours,
        price=None if price is None else hours * price,
        bound=pace.bound,
    )
