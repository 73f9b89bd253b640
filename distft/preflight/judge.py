"""Which nodes are not like the others, by figures that all of them took at the same time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

LEAST_OF_ACCELERATOR = 0.8  # of the other nodes' median: nobody else uses it
LEAST = 0.5  # of what others may use at the same time: cores, memory of the host, disks, the network
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
    """What was measured on one node."""

    name: str
    rates: Mapping[str, float]  # what of UNITS -> rate of its slowest process
    clock: float  # seconds, told by all nodes at one moment
    troubles: Sequence[str] = ()  # of its GPUs, after which no job belongs there
    notes: Sequence[str] = ()  # of its GPUs, worth a look
    pairs: Mapping[str, float] = field(default_factory=dict)  # other node -> GiB/s of an all-reduce with it
    on_accelerator: bool = False


@dataclass(frozen=True)
class Outlier:
    """A node that no job belongs on, and why."""

    node: str
    why: str


def outliers(nodes: Sequence[Node]) -> list[Outlier]:
    """Returns the nodes that are no like the others; one node alone has none to be held to but its GPUs' own words."""
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
    """Yields the nodes with which every pair is slow. A single slow pair may be either's fault, or the path's."""
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
