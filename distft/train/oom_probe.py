"""The dearest forward of a run, made early: what does not fit shows in the first minute, not hours later."""

from math import nan

import numpy as np

from distft.strategies.engine import Engine
from distft.train.feed import Feed, one_batch

_CANDIDATES = 64  # steps that are cut to find it: those that have the longest rows


def longest(feed: Feed) -> np.ndarray:
    """Returns the rows of the micro-batch with the most tokens, of all processes and of the steps with longest rows.

    It is one that the run will make, in its first pass over the data.
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


def try_longest(engine: Engine, feed: Feed) -> None:
    """Makes forward and backward of that micro-batch on every process, and leaves the weights as they are.

    Call it when the optimizer has its state, after a first step. The gradient is made one that no strategy takes.
    """
    value, _ = engine.forward(one_batch(feed.rows, longest(feed), feed.multiple_of, feed.world))
    engine.backward(value, scale=float("nan"), last=True)
    engine.update(norm=nan, max_norm=None)
