"""The real rank, slowed down by $SLOW, and with the faults of $FAULT.

$SLOW: KIND:RANK:SECONDS:ATTEMPT, several separated by commas. KIND is where the rank sleeps in every step: before its
rows, or in its forward. `twice` doubles the work of the forward. `delete` deletes a checkpoint that slowly, and prints
when it begins.
"""

import os
import sys
import time
from typing import Any

from distft.rank import prepare  # noqa: F401  # as the real rank's
from tests.support import faulty_rank


def plant(kind: str, seconds: float) -> None:
    from distft.checkpoint import save
    from distft.runtime import heartbeat
    from distft.strategies.fsdp import ShardedEngine
    from distft.train.feed import Prefetch

    delete, batches, forward, own = (
        save.delete,
        Prefetch.batches,
        ShardedEngine.forward,
        heartbeat.PHASES.index("forward"),
    )

    def lasting(folders: Any) -> None:
        if folders:
            print(f"deleting from {time.time()}", flush=True)
            time.sleep(seconds)
        delete(folders)

    def late(self: Any, step: int) -> Any:
        time.sleep(seconds)
        return batches(self, step)

    def slow(self: Any, *given: Any) -> Any:
        heart = heartbeat._heart[0]
        heart.enter("forward")
        before = heart._seconds[own]
        outputs = forward(self, *given)
        heart.enter("forward")
        time.sleep(seconds if kind == "forward" else heart._seconds[own] - before)
        return outputs

    if kind == "delete":
        save.delete = lasting
    elif kind == "data":
        Prefetch.batches = late
    else:
        ShardedEngine.forward = slow


def main() -> None:
    for each in os.environ["SLOW"].split(","):
        kind, who, seconds, attempt = each.split(":")
        if who == os.environ["RANK"] and attempt in (sys.argv[sys.argv.index("--attempt") + 1], "0"):
            plant(kind, float(seconds))
    faulty_rank.main()


if __name__ == "__main__":
    main()
