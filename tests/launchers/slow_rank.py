"""A rank that is slow as $SLOW says, KIND:RANK:SECONDS:ATTEMPT, and does what $FAULT says; else it is the real rank.

KIND is where it sleeps in every step: before its rows, or in its forward. `twice` works twice as long in the forward.
"""

import os
import sys
import time
from typing import Any

from distft.rank import prepare  # noqa: F401  # as the real rank's
from tests.launchers import faulty_rank


def plant(kind: str, seconds: float) -> None:
    from distft.runtime import heartbeat
    from distft.strategies.fully_sharded import ShardedEngine
    from distft.train.feed import Prefetch

    batches, forward, own = Prefetch.batches, ShardedEngine.forward, heartbeat.PHASES.index("forward")

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

    if kind == "data":
        Prefetch.batches = late
    else:
        ShardedEngine.forward = slow


def main() -> None:
    kind, who, seconds, attempt = os.environ["SLOW"].split(":")
    if who == os.environ["RANK"] and attempt in (sys.argv[sys.argv.index("--attempt") + 1], "0"):
        plant(kind, float(seconds))
    faulty_rank.main()


if __name__ == "__main__":
    main()
