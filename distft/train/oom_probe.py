"""OOM probe: forward and backward of the largest micro-batch, right after the first step.

A run that does not fit fails in its first minute, not hours later. The probe comes after a step because only then does
the optimizer have its state.
"""

from math import nan

import numpy as np

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
