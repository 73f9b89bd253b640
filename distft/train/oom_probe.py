"""OOM probe, and the error of a process that is out of memory, with the planned memory and changes to try.

OOM probe: forward and backward of the largest micro-batch, right after the first step, so a run that does not fit fails
in its first minute, not hours later. It comes after a step because only then does the optimizer have its state.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import nan

import numpy as np
import torch

from distft.run import Plan, RunFolder
from distft.strategies.engine import Engine
from distft.train.feed import Feed, one_batch

_CANDIDATES = 64  # longest rows; the steps that read them are searched


def longest(feed: Feed) -> np.ndarray:
    """Returns the indices of the rows of the micro-batch with the most tokens, over all processes.

    Only steps with the longest rows, in the first pass over the data, are searched: the run makes this micro-batch.
    """
    start, stop = int(feed.borders[0]), int(feed.borders[-1])
    order = feed.order.rows(start, min(stop, start + len(feed.rows)))
    lengths = feed.rows.lengths[order]
    positions = start + np.argsort(-lengths, kind="stable")[:_CANDIDATES]
    steps = np.unique(np.searchsorted(feed.borders, positions, side="right")) + feed.base_step
    found = [
        rows
        for step in steps
        for ranks in feed.cut.micro_batches(feed.rows_of(int(step)), feed.world.size)
        for rows in ranks
    ]
    return max(found, key=lambda rows: int(feed.rows.lengths[rows].sum()))


def probe_memory(engine: Engine, feed: Feed) -> None:
    """Runs forward and backward of the largest micro-batch on every process; the weights stay the same.

    The gradient is made NaN, so every strategy drops it instead of updating.
    """
    value, _ = engine.forward(one_batch(feed.rows, longest(feed), feed.multiple_of, feed.world))
    engine.backward(value, scale=nan, last=True)
    engine.update(norm=nan, max_norm=None)


GIB = 2**30
_CHANGES = 3
_TRIED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
_NEXT = {"none": "selective", "selective": "full"}  # train.activation_checkpointing


class OutOfMemory(RuntimeError):
    """A device is out of memory; the message has the planned memory and changes to try."""


def out_of_memory(message: str, plan: Plan, strategy: str, max_length: int, recomputed: str) -> OutOfMemory:
    """Returns the error with torch's message, the planned memory, and three changes that need less.

    message: of torch. strategy: its name in the config. max_length: data.max_length. recomputed:
    train.activation_checkpointing.
    """
    amount = _TRIED.search(message)
    more = f"tried to allocate {amount[1]}" if amount else message.strip().partition("\n")[0]
    changes = list(smaller_settings(plan, strategy, max_length, recomputed))[:_CHANGES]
    return OutOfMemory(f"out of memory: {more}. {planned_memory(plan, strategy)} Try: {', or '.join(changes)}")


def planned_memory(plan: Plan, strategy: str) -> str:
    """Describes the planned memory of a process."""
    kept = "a forward of {} keeps the rest".format(
        f"{plan.micro_batch_size} rows" if plan.micro_batch_size else f"{plan.micro_batch_tokens} tokens"
    )
    if strategy not in plan.memory:
        return f"{kept.capitalize()} in addition to weights, gradients and optimizer."
    of = plan.memory[strategy]
    parts = ", ".join(f"{part} {of[part] / GIB:.1f}" for part in ("parameters", "gradients", "optimizer"))
    gathered = f", and in a step gathered {of['gathered'] / GIB:.1f}" if of.get("gathered") else ""
    if "activations" in of:
        step = (of["activations"] + of["loss"]) / GIB
        kept = f"about {step:.1f} for a forward of {plan.forward_tokens:,} tokens and its loss"
    return f"Planned for a process under {strategy}: {of['total'] / GIB:.1f} GiB ({parts}){gathered}; {kept}."


def smaller_settings(plan: Plan, strategy: str, row: int, recomputed: str) -> Iterator[str]:
    """Yields changes that need less memory; those that keep the result the same come first.

    row: its most tokens.
    """
    rows, tokens = plan.micro_batch_size, plan.micro_batch_tokens
    if rows and rows > 1:
        yield f"train.micro_batch_size={rows // 2}"
    if tokens and tokens > row:
        yield f"train.micro_batch_tokens={max(tokens // 2, row)}"
    if recomputed in _NEXT:
        yield f"train.activation_checkpointing={_NEXT[recomputed]}"
    table = {name: of["total"] - of["host"] for name, of in plan.memory.items()}
    if strategy in table and min(table.values()) < table[strategy]:
        name = min(table, key=lambda each: table[each])
        yield f"strategy={name} ({table[name] / GIB:.1f} instead of {table[strategy] / GIB:.1f} GiB of these)"
    if tokens and tokens <= row:
        yield f"data.max_length={tokens // 2} train.micro_batch_tokens={tokens // 2}"
    yield f"launcher.nodes={2 * plan.nodes}"
    if plan.adapters is None:
        yield "tuning=lora"


_NO_MEMORY = re.compile(  # in a RuntimeError of torch, a driver, cuBLAS or NCCL; the first alternative is a CPU's
    r"can't allocate memory|out of (device |host )?memory|OUT_OF_(DEVICE_|HOST_)?MEMORY|_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


@contextmanager
def explain_out_of_memory(run: RunFolder, strategy: str, max_length: int, recomputed: str) -> Iterator[None]:
    """Turns an out-of-memory error into OutOfMemory, with the planned memory and changes to try."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        raise out_of_memory(str(error), run.read_plan(), strategy, max_length, recomputed) from error
