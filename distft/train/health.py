"""Health of a run: NaN/Inf policy, loss spikes, stragglers, waits for data.

All processes see the same step skipped, so all take the same decision.

Straggler detection compares compute seconds per rank without waits in collectives (distft.runtime.heartbeat): it is the
healthy ranks that wait. The seconds travel in the step's own collective, so no further one is needed.
Trap: rows are assigned by cost, and the most expensive ones often go to the same rank. More work is not slowness.
"""

import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from distft.run import MetricsRow, Plan, RunFolder, write_json
from distft.runtime.determinism import seed_for
from distft.runtime.errors import NonFinite
from distft.runtime.heartbeat import WORK
from distft.runtime.process_group import World
from distft.strategies.engine import Engine
from distft.train.feed import Feed
from distft.train.state import check_replicas

Policy = Literal["stop", "skip", "rewind"]
Verdict = Literal["go_on", "rewind"]
_SIGMA = 0.6745  # the median deviation of a normal distribution with deviation 1
_NEAR, _FAR = 16, 128  # values
_LEAST = 16  # distances needed before the first spike is reported


@dataclass
class NonFinitePolicy:
    """NaN/Inf policy: what follows a skipped step (train.on_non_finite, train.max_non_finite)."""

    policy: Policy = "skip"
    limit: int = 3
    in_row: int = field(default=0, init=False)
    rewinds: int = field(default=0, init=False)

    def after(self, step: int, is_skipped: bool, where: str) -> Verdict:
        """Returns the verdict on a step; raises NonFinite when the run must end.

        where: the file that describes the step's batch.
        """
        if not is_skipped:
            self.in_row = 0
            return "go_on"
        what = f"loss or gradient of step {step} is not finite; no weight was changed. What it read: {where}"
        if self.policy == "stop":
            raise NonFinite(f"{what} (train.on_non_finite=stop)")
        if self.policy == "rewind":
            self.rewinds += 1
            if self.rewinds > self.limit:
                raise NonFinite(f"{what}. The run has gone back {self.limit} times (train.max_non_finite)")
            return "rewind"
        self.in_row += 1
        if self.in_row >= self.limit:
            raise NonFinite(f"{what}. It is number {self.in_row} in a row (train.max_non_finite)")
        return "go_on"


@dataclass
class Spikes:
    """Detects spikes: values far above the median of the last few, in units of their usual deviation.

    Medians do not follow single outliers, so a spike does not hide the next one. The median is of few values: over a
    longer window a falling loss has a spread that hides a spike.
    """

    threshold: float = 8.0  # deviations; a normal distribution exceeds it once in 1e15 values
    floor: float = 0.01  # of the median: the smallest deviation assumed, for curves that hardly move
    by_ratio: bool = False  # deviations of the logarithm, for values that vary by factors
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_NEAR))
    distances: deque[float] = field(default_factory=lambda: deque(maxlen=_FAR))
    _middle: float = 0.0

    def see(self, value: float) -> float | None:
        """Takes the next value; returns how many deviations a spike is above the median, else None."""
        if not math.isfinite(value):
            return None
        value = math.log(max(value, 1e-30)) if self.by_ratio else value
        score = 0.0
        if len(self.recent) == self.recent.maxlen:
            self._middle = median(self.recent)
            distance = value - self._middle
            score = distance / self._deviation() if len(self.distances) >= _LEAST else 0.0
            self.distances.append(abs(distance))
        self.recent.append(value)
        return score if score > self.threshold else None

    @property
    def usual(self) -> float:
        """Returns the median of the values before the last."""
        return math.exp(self._middle) if self.by_ratio else self._middle

    def _deviation(self) -> float:
        least = self.floor * (1.0 if self.by_ratio else abs(self._middle))
        return max(median(self.distances) / _SIGMA, least, 1e-12)


@dataclass
class Warnings:
    """Warns of spikes and skipped steps."""

    loss: Spikes = field(default_factory=Spikes)
    grad_norm: Spikes = field(default_factory=lambda: Spikes(floor=0.1, by_ratio=True))

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes the steps of an earlier start without warnings, so that a restart keeps its statistics."""
        for row in deque(rows, _NEAR + _FAR):
            if not row.get("skipped", False):
                self.loss.see(row["loss"])
                self.grad_norm.see(row["grad_norm"])

    def of(self, step: int, loss: float, grad_norm: float, is_skipped: bool) -> list[str]:
        """Returns the warnings of a step (usually none)."""
        if is_skipped:
            return [f"step {step} was skipped: loss {loss:.4g}, gradient norm {grad_norm:.4g}"]
        found = []
        for what, spikes, value in (("loss", self.loss, loss), ("gradient norm", self.grad_norm, grad_norm)):
            if (score := spikes.see(value)) is not None:
                usual = spikes.usual
                found.append(f"{what} of step {step} is {value:.4g}, {score:.0f} deviations above {usual:.4g}")
        return found


SCORE = 0.7  # usual seconds over a rank's own; a rank below is slow (as in NVIDIA's NVRx)
STEPS, SLOW = 16, 12  # a straggler is slow in SLOW of the last STEPS steps, and in their mean
_LEAST_SHARE = 0.1  # of the usual seconds of a step; a smaller excess is ignored
_FIRST_STEPS = 3  # ignored: they compile, warm up and read for the first time


def rank_stats(seconds: Sequence[float], cost: float, world: World) -> list[float]:
    """Returns compute seconds and cost of this rank at its own place in a list of zeros; the sum over all ranks holds
    the numbers of each.

    seconds: by phase of WORK. cost: operations of its micro-batches.
    """
    width = len(WORK) + 1
    stats = [0.0] * (width * world.size)
    stats[width * world.rank : width * (world.rank + 1)] = [*seconds, cost]
    return stats


class Stragglers:
    """Detects ranks that stay slow; warns of each once until it has recovered."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """hosts: of each rank."""
        self.hosts = hosts
        self._recent = np.zeros((STEPS, len(hosts), len(WORK) + 1))  # ring buffer of `rank_stats`
        self._slow = np.zeros((STEPS, len(hosts), len(WORK)), dtype=bool)
        self._steps = -_FIRST_STEPS
        self._named: set[int] = set()

    def of(self, stats: Sequence[float]) -> list[str]:
        """Returns the warnings after a step (usually none). stats: the sum of `rank_stats` over all ranks."""
        self._steps += 1
        if self._steps <= 0 or len(self.hosts) < 2:
            return []
        place, count = self._steps % STEPS, min(self._steps, STEPS)
        self._recent[place] = np.reshape(stats, self._recent.shape[1:])
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


def _usual(stats: np.ndarray) -> np.ndarray:
    """Returns the lower median over ranks, [N] of [R, N]: of two ranks the faster one."""
    return np.sort(stats, axis=0)[(len(stats) - 1) // 2]


def _is_slow(stats: np.ndarray) -> np.ndarray:
    """Returns which ranks are slow in which phase, beyond their larger share of the work; [R, phases]."""
    usual, seconds = _usual(stats), stats[:, :-1]
    share = stats[:, -1:] / max(usual[-1], 1e-9)
    expected = usual[:-1] * np.maximum(share, 1.0)
    return (SCORE * seconds > expected) & (seconds - expected > _LEAST_SHARE * usual[:-1].sum())


WAIT_STEPS, SHARE = 50, 0.05


@dataclass
class DataWait:
    """Warns when rank 0 waits for data; once, and again only after the waits have become short."""

    _waited: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WAIT_STEPS))
    _warned: bool = False

    def of(self, row: Mapping[str, Any]) -> list[str]:
        """Returns the warnings of a step (usually none)."""
        self._waited.append((row["phases"].get("data", 0.0), row["seconds"]))
        waited, seconds = (sum(part) for part in zip(*self._waited, strict=True))
        is_much = len(self._waited) == WAIT_STEPS and waited > SHARE * seconds
        is_new, self._warned = is_much and not self._warned, is_much
        if not is_new:
            return []
        return [
            f"{waited / seconds:.0%} of the last {WAIT_STEPS} steps waited for rows. Try: launcher.stage=node_local, "
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


def batch_file(run: RunFolder, step: int) -> Path:
    return run.path / "batches" / f"step-{step:08d}.json"


def write_batch(run: RunFolder, plan: Plan, feed: Feed, seed: int, row: MetricsRow, why: Sequence[str]) -> None:
    """Writes the rows, micro-batches and seeds of a step, and the command that replays it.

    seed: of the run. row: of metrics.jsonl. The plan is included, since a later plan may read other rows.
    """
    step = row["step"]
    dealt = feed.cut.micro_batches(feed.rows_of(step), feed.world.size)
    own_seed = seed_for(seed, "step", step)
    micro_batches = [
        {
            "micro_batch": i,
            "rank": rank,
            "seed": seed_for(own_seed, i, rank),
            "rows": indices.tolist(),
            "ids": [feed.rows.ids[index] for index in indices.tolist()],
        }
        for i, ranks in enumerate(dealt)
        for rank, indices in enumerate(ranks)
    ]
    content = {
        "step": step,
        "why": list(why),
        "time": time.time(),
        "seed": own_seed,
        "metrics": {key: repr(row[key]) for key in ("loss", "grad_norm", "learning_rate")},
        "replay": shlex.join(["python", "-m", "distft.replay", f"run={run.path}", f"step={step}"]),
        "data": plan.data_dir,
        "micro_batches": micro_batches,
        "plan": asdict(plan),
    }
    write_json(batch_file(run, step), content)


@dataclass
class Monitor:
    """Checks the health of a run after each step; every process calls `check` with the same row."""

    run: RunFolder
    plan: Plan
    feed: Feed
    seed: int
    engine: Engine
    policy: NonFinitePolicy
    log: Callable[[MetricsRow], None]
    check_every: int | None  # steps between two checks of replicas
    stragglers: Stragglers
    warnings: Warnings = field(default_factory=Warnings)
    data_wait: DataWait = field(default_factory=DataWait)
    memory: MemoryPressure = field(default_factory=MemoryPressure)

    def check(self, row: MetricsRow, work: Sequence[float]) -> Verdict:
        """Logs warnings and returns what comes next; raises NonFinite or RuntimeError when the run must end.

        row: of metrics.jsonl. work: the sum of `rank_stats` over all ranks.
        """
        step, is_skipped = row["step"], row.get("skipped", False)
        unusual = self.warnings.of(step, row["loss"], row["grad_norm"], is_skipped)
        others = [*self.stragglers.of(work), *self.data_wait.of(row), *self.memory.of(row)]
        if unusual or others:
            self.log({"step": step, "split": "warning", "text": "; ".join([*unusual, *others])})
        if unusual and self.feed.world.is_first:
            write_batch(self.run, self.plan, self.feed, self.seed, row, unusual)
        if self.check_every and step % self.check_every == 0:
            check_replicas(self.engine)
        return self.policy.after(step, is_skipped, str(batch_file(self.run, step)))
