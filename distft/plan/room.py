"""What to change when a device has no room for a run."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from distft.run import Plan

GIB = 2**30
_CHANGES = 3
_WANTED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
_NEXT = {"none": "selective", "selective": "full"}  # train.activation_checkpointing


class OutOfMemory(RuntimeError):
    """A device has no room for what the run needs; the message has the plan's count and what to change."""


def out_of_memory(said: str, plan: Plan, config: Mapping[str, Any], strategy: str) -> OutOfMemory:
    """Returns the error that tells what torch said, where the memory goes, and three changes that need less.

    strategy: the chosen one's name.
    """
    amount = _WANTED.search(said)
    more = f"{amount[1]} more were wanted" if amount else said.strip().partition("\n")[0]
    changes = list(less(plan, config, strategy))[:_CHANGES]
    return OutOfMemory(f"out of memory: {more}. {counted(plan, strategy)} Try: {', or '.join(changes)}")


def counted(plan: Plan, strategy: str) -> str:
    """Returns what lives through the whole run, of one process, in words."""
    kept = "a forward of {} keeps the rest".format(
        f"{plan.micro_batch_size} rows" if plan.micro_batch_size else f"{plan.micro_batch_tokens} tokens"
    )
    if strategy not in plan.memory:
        return f"{kept.capitalize()} beside weights, gradients and optimizer."
    of = plan.memory[strategy]
    parts = ", ".join(f"{part} {of[part] / GIB:.1f}" for part in ("parameters", "gradients", "optimizer"))
    gathered = f", and in a step gathered {of['gathered'] / GIB:.1f}" if of.get("gathered") else ""
    return f"Planned for a process under {strategy}: {of['total'] / GIB:.1f} GiB ({parts}){gathered}; {kept}."


def less(plan: Plan, config: Mapping[str, Any], strategy: str) -> Iterator[str]:
    """Yields changes that need less memory; those that leave the result as it is come first."""
    rows, tokens, row = plan.micro_batch_size, plan.micro_batch_tokens, config["data"]["max_length"]
    if rows and rows > 1:
        yield f"train.micro_batch_size={rows // 2}"
    if tokens and tokens > row:
        yield f"train.micro_batch_tokens={max(tokens // 2, row)}"
    now = config["train"]["activation_checkpointing"]
    if now in _NEXT:
        yield f"train.activation_checkpointing={_NEXT[now]}"
    table = {name: of["total"] - of["host"] for name, of in plan.memory.items()}
    if strategy in table and min(table.values()) < table[strategy]:
        name = min(table, key=lambda each: table[each])
        yield f"strategy={name} ({table[name] / GIB:.1f} instead of {table[strategy] / GIB:.1f} GiB of these)"
    if tokens and tokens <= row:
        yield f"data.max_length={tokens // 2} train.micro_batch_tokens={tokens // 2}"
    yield f"launcher.nodes={2 * plan.nodes}"
    if plan.adapters is None:
        yield "tuning=lora"
