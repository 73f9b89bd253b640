"""The real rank with a non-finite loss in micro-batches with a document of over $SPOILT_TOKENS tokens.

Before step $SPOILT_BITS it flips one bit of one rank's weights.
"""

import os
from typing import Any

import torch

from distft import rank
from distft.rank import prepare  # noqa: F401  # as the real rank's

TOKENS, STEP = int(os.environ.get("SPOILT_TOKENS", "0")), int(os.environ.get("SPOILT_BITS", "0"))


def plant() -> None:
    from distft.losses.cross_entropy import CrossEntropy
    from distft.runtime import heartbeat
    from distft.train import loop

    begin_step, train_step, loss, at = heartbeat.begin_step, loop.train_step, CrossEntropy.__call__, [0]

    def noted(step: int) -> None:
        at[0] = step
        begin_step(step)

    def other_bits(engine: Any, *arguments: Any, **named: Any) -> Any:
        if at[0] == STEP and os.environ["RANK"] == "1":
            next(engine.pieces()).data().view(torch.int32)[0] ^= 1
        return train_step(engine, *arguments, **named)

    def spoilt(self: Any, model: Any, batch: Any) -> Any:
        value, sums = loss(self, model, batch)
        return (value * float("inf") if TOKENS and max(batch.lengths) > TOKENS else value), sums

    heartbeat.begin_step, loop.train_step, CrossEntropy.__call__ = noted, other_bits, spoilt


def main() -> None:
    plant()
    rank.main()


if __name__ == "__main__":
    main()
