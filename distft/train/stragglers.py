"""Which rank the others wait for: its own seconds in a phase, against theirs.

The time that a rank waits inside of collectives is told apart (distft.runtime.heartbeat), because it is the healthy
ranks that wait. The seconds travel in the step's own collective, so no other is made.
Trap: rows are dealt by cost, and the dearest of a step mostly go to the same rank. More work is no slowness.
"""

from collections.abc import Sequence

import numpy as np

from distft.runtime.heartbeat import WORK
from distft.runtime.process_group import World

SCORE = 0.7  # the usual seconds over a rank's own, below which it is slow (NVIDIA's NVRx counts the same way)
STEPS, SLOW = 16, 12  # a rank is named that was slow in so many of so many steps, and over all of them
_LEAST_SHARE = 0.1  # of the usual seconds of a step, which a phase must cost more than usual to count
_FIRST_STEPS = 3  # which compile, warm up and read for the first time


def told_of(seconds: Sequence[float], cost: float, world: World) -> list[float]:
    """Returns what this rank worked, at its own place among zeros: the sum over all ranks has everyone's.

    seconds: by phase of WORK. cost: operations of its micro-batches.
    """
    width = len(WORK) + 1
    told = [0.0] * (width * world.size)
    told[width * world.rank : width * (world.rank + 1)] = [*seconds, cost]
    return told


class Stragglers:
    """Names ranks that stay slow, each once until it has recovered."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """hosts: of each rank."""
        self.hosts = hosts
        self._recent = np.zeros((STEPS, len(hosts), len(WORK) + 1))  # what each rank told, in a ring
        self._slow = np.zeros((STEPS, len(hosts), len(WORK)), dtype=bool)
        self._steps = -_FIRST_STEPS
        self._named: set[int] = set()

    def of(self, told: Sequence[float]) -> list[str]:
        """Takes the next step, the sum of what each rank told; returns what is to be said of it, mostly nothing."""
        self._steps += 1
        if self._steps <= 0 or len(self.hosts) < 2:
            return []
        place, count = self._steps % STEPS, min(self._steps, STEPS)
        self._recent[place] = np.reshape(told, self._recent.shape[1:])
        self._slow[place] = _is_slow(self._recent[place])
        times = self._slow.sum(axis=0)  # [R, phases]
        self._named = {rank for rank in self._named if times[rank].max() > STEPS - SLOW}
        if times.max() < SLOW:
            return []
        mean = self._recent.sum(axis=0) / count
        slow = (times >= SLOW) & _is_slow(mean)
        found = [rank for rank in np.flatnonzero(slow.any(axis=1)).tolist() if rank not in self._named]
        self._named.update(found)
        return [self._words(rank, slow[rank], mean, f"{times[rank].max()} of the last {count} steps") for rank in found]

    def _words(self, rank: int, slow: np.ndarray, mean: np.ndarray, how_often: str) -> str:
        usual = _usual(mean)[: len(WORK)]
        phase = int(np.argmax(np.where(slow, mean[rank, : len(WORK)] - usual, -1.0)))
        return (
            f"rank {rank} on {self.hosts[rank]} is slow in {WORK[phase]}: {mean[rank, phase]:.3g} s a step of its own, "
            f"usual are {usual[phase]:.3g} s; in {how_often}"
        )


def _usual(told: np.ndarray) -> np.ndarray:
    """Returns the lower median over ranks, of [R, N]: with two of them that of the faster one."""
    return np.sort(told, axis=0)[(len(told) - 1) // 2]


def _is_slow(told: np.ndarray) -> np.ndarray:
    """Returns which ranks are slow in which phase, beyond what their share of the work explains; [R, phases]."""
    usual, seconds = _usual(told), told[:, :-1]
    share = told[:, -1:] / max(usual[-1], 1e-9)
    expected = usual[:-1] * np.maximum(share, 1.0)
    return (SCORE * seconds > expected) & (seconds - expected > _LEAST_SHARE * usual[:-1].sum())
