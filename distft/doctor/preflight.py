"""The preflight of a job: a separate run in RUN/preflight with as many ranks, and its verdict on the nodes.

Trap: to exclude a node, SLURM must requeue the job, and it accepts a change of the excluded nodes only while the job is
queued. So the job is requeued first and changed then; a queued job starts later than the change.
"""

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median

import yaml

from distft.config.errors import Unavailable
from distft.config.freeze import read_config
from distft.launchers.slurm import commands
from distft.launchers.slurm.commands import SlurmError, slurm, with_retries
from distft.launchers.slurm.launcher import look_up
from distft.machines import node_range
from distft.run import RunFolder, Status, read_json, write_json

LEAST_OF_ACCELERATOR = 0.8  # of the other nodes' median; an accelerator is exclusive
LEAST = 0.5  # for resources that others may share: cores, host memory, disks, network
MOST_SKEW_SECONDS = 10.0
UNITS = {
    "matrix product": "GFLOP/s",
    "memory": "GiB/s",
    "disk": "MiB/s",
    "all-reduce in the node": "GiB/s",
    "all-reduce with a neighbour": "GiB/s",
}
_PAIRS = "all-reduce with a neighbour"


@dataclass(frozen=True)
class Node:
    """The measurements of one node."""

    name: str
    rates: Mapping[str, float]  # key of UNITS -> rate of the slowest process
    clock: float  # seconds, read by all nodes at one moment
    troubles: Sequence[str] = ()  # of its GPUs, fatal for any job
    notes: Sequence[str] = ()  # of its GPUs, not fatal
    pairs: Mapping[str, float] = field(default_factory=dict)  # other node -> GiB/s of an all-reduce with it
    on_accelerator: bool = False


@dataclass(frozen=True)
class Outlier:
    """A node that no job should use, and the reason."""

    node: str
    why: str


def outliers(nodes: Sequence[Node]) -> list[Outlier]:
    """Returns the outlier nodes; a single node is judged by the errors of its GPUs only."""
    found = [Outlier(node.name, why) for node in nodes for why in node.troubles]
    return list(dict.fromkeys([*found, *_slow(nodes), *_cut_off(nodes), *_out_of_time(nodes)]))


def _slow(nodes: Sequence[Node]) -> Iterator[Outlier]:
    for what in UNITS:
        for node in nodes:
            others = [other.rates[what] for other in nodes if other is not node and what in other.rates]
            if what not in node.rates or not others:
                continue
            least = LEAST_OF_ACCELERATOR if node.on_accelerator and what in ("matrix product", "memory") else LEAST
            rate, usual = node.rates[what], median(others)
            if rate < least * usual:
                yield Outlier(node.name, f"{what}: {rate:.3g} {UNITS[what]}, the others {usual:.3g}")


def _cut_off(nodes: Sequence[Node]) -> Iterator[Outlier]:
    """Yields nodes with which every pair is slow. One slow pair may be the fault of either node or of the path."""
    for node in nodes:
        rest = [rate for other in nodes for name, rate in other.pairs.items() if node.name not in (other.name, name)]
        if node.pairs and rest and max(node.pairs.values()) < LEAST * median(rest):
            best = max(node.pairs.values())
            yield Outlier(node.name, f"{_PAIRS}: {best:.3g} {UNITS[_PAIRS]} at best, the others {median(rest):.3g}")


def _out_of_time(nodes: Sequence[Node]) -> Iterator[Outlier]:
    for node in nodes:
        others = [other.clock for other in nodes if other is not node]
        if others and abs(apart := node.clock - median(others)) > MOST_SKEW_SECONDS:
            yield Outlier(
                node.name, f"its clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the others"
            )


_WORK = "distft.doctor.preflight_node.work"
_HANG_SECONDS = 120.0  # imports may take this long when all nodes read the shared disk


def folder_of(run: RunFolder) -> RunFolder:
    return RunFolder(run.path / "preflight")


def freeze_preflight(run: RunFolder, job_start: str) -> bool:
    """Freezes the preflight of this start of a job where one is due; returns whether it is.

    job_start: identifies one start of a job; the next one may have other nodes.
    """
    flight, launcher = folder_of(run), read_config(run).launcher
    flight.plan.unlink(missing_ok=True)  # the job's script looks for it
    if not launcher.preflight or run.read_status().get("preflight") == job_start:
        return False
    (flight.path / "figures.json").unlink(missing_ok=True)
    flight.path.mkdir(exist_ok=True)
    limits = {"hang_seconds": _HANG_SECONDS, "hang_seconds_outside": _HANG_SECONDS}
    config = {"work": _WORK, "trust": [], "train": {"deterministic": False}, "launcher": limits}
    flight.config.write_text(yaml.safe_dump(config))
    attempt = flight.read_status()["attempt"] + 1
    flight.write_status(state="pending", attempt=attempt, exit_code=None, error=None, began=time.time())
    flight.write_plan(run.read_plan())
    run.write_status(preflight=job_start)
    return True


def conclude(run: RunFolder, job: str, names: list[str]) -> bool:
    """Prints the verdict on the nodes, and returns whether the job was requeued without the faulty ones.

    names: of the job's nodes, in SLURM's order. A run is requeued once; the second time it continues with all nodes.
    """
    flight, status = folder_of(run), run.read_status()
    found, figures = _found(flight, names), _figures(flight)
    seconds = time.time() - flight.read_status().get("began", time.time())
    report = {"seconds": seconds, "job": job, "nodes": list(names), "outliers": [asdict(each) for each in found]}
    write_json(run.path / "preflight.json", report | {"figures": [asdict(each) for each in figures]})
    _say(f"preflight of {', '.join(names)} in {seconds:.0f} s: {_words(found)}")
    for node in figures:
        for note in node.notes:
            _say(f"preflight: {node.name}: {note}")
    if not found:
        return False
    bad = sorted({each.node for each in found})
    excluded = sorted({*read_config(run).launcher.exclude, *bad})
    if reason := _must_stay(run, status, excluded):
        _say(f"preflight: the run continues with {', '.join(bad)}: {reason}")
        return False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent as soon as the job is requeued
    run.write_status(excluded=bad)
    try:
        left_out = f"ExcNodeList={','.join(excluded)}"
        for command in (("requeue", job), ("update", f"JobId={job}", left_out)):
            with_retries(partial(slurm, "scontrol", *command), commands.SECONDS_OF_JOB)
    except SlurmError as error:
        _say(f"preflight: SLURM refused to exclude {', '.join(bad)}: {error}")
        return False
    _say(f"preflight: job {job} is requeued without {', '.join(bad)}")
    return True


def _found(flight: RunFolder, names: list[str]) -> list[Outlier]:
    """Returns the faulty nodes by their figures; without figures, the node of the rank that failed first."""
    if figures := _figures(flight):
        return outliers(figures)
    error = flight.read_status()["error"] or {}
    if error.get("rank") is None:
        _say(f"preflight: nothing was measured: {error.get('message', 'no rank finished')}")
        return []
    node = error["rank"] // flight.read_plan().processes_per_node
    return [Outlier(names[node], f"{error['type']}: {str(error['message']).splitlines()[0]}")]


def _figures(flight: RunFolder) -> list[Node]:
    file = flight.path / "figures.json"
    return [Node(**each) for each in read_json(file)] if file.is_file() else []


def _must_stay(run: RunFolder, status: Status, excluded: Sequence[str]) -> str:
    """Returns why the job cannot be requeued without some nodes, empty if it can."""
    if status.get("excluded"):
        return "it was already requeued once"
    launcher = read_config(run).launcher
    fewest, _ = node_range(launcher.nodes)
    try:
        there = look_up(launcher.partition).nodes - len(excluded)
    except (ValueError, Unavailable) as error:
        return str(error)
    return f"{there} other nodes are left in the partition, {fewest} are needed" if there < fewest else ""


def _words(found: Sequence[Outlier]) -> str:
    return "; ".join(f"{each.node}: {each.why}" for each in found) or "no outliers"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
