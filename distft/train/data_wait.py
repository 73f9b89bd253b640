"""Warns when devices stand still: for want of rows, or of memory."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STEPS, SHARE = 50, 0.05


@dataclass
class DataWait:
    """Sees rank 0's rows of metrics.jsonl; told once, and again only after it has waited less."""

    _waited: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=STEPS))
    _is_told: bool = False

    def of(self, row: Mapping[str, Any]) -> list[str]:
        """Returns what is to be told after the step, mostly nothing."""
        self._waited.append((row["phases"].get("data", 0.0), row["seconds"]))
        waited, seconds = (sum(part) for part in zip(*self._waited, strict=True))
        is_much = len(self._waited) == STEPS and waited > SHARE * seconds
        is_news, self._is_told = is_much and not self._is_told, is_much
        if not is_news:
            return []
        return [
            f"{waited / seconds:.0%} of the last {STEPS} steps waited for rows. Try: launcher.stage=node_local, "
            "which copies them to each node's own disk"
        ]


@dataclass
class MemoryPressure:
    """Warns when an accelerator's allocator had to give back all it kept before it could go on, which waits for the
    device: once in each start of a run, and again each time that the count has doubled."""

    _warned_at: int = 0

    def of(self, row: Mapping[str, Any]) -> list[str]:
        """Returns the warnings of a step (usually none), from its row of metrics.jsonl."""
        retries = row.get("allocator_retries", 0)
        if retries < max(1, 2 * self._warned_at):
            return []
        self._warned_at = retries
        return [
            f"memory is short: the allocator had to empty its cache {retries} times so far. Try: smaller "
            "micro-batches, or train.activation_checkpointing=selective"
        ]
