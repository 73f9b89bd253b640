"""The excess is the time that processes wait for the most expensive one of each micro-batch."""

import numpy as np

from benchmarks.balance import excess


def test_every_rank_waits_for_the_most_expensive_micro_batch():
    costs = np.array([1.0, 3.0, 3.0, 1.0])
    rows = [np.array([i]) for i in range(4)]
    assert excess(costs, [[rows[0], rows[1]], [rows[2], rows[3]]]) == 0.5  # 3 + 3, where 4 would do
    assert excess(costs, [[rows[1], rows[2]], [rows[0], rows[3]]]) == 0.0
