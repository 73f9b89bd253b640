"""The measured points: every layout, strategy, micro size and variant, with strong or weak scaling.

A point that is in a weak and in a strong series is measured once.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product

from benchmarks.measurement import digest
from benchmarks.throughput.settings import Asked, Variant


@dataclass(frozen=True)
class Point:
    """One setting, which every repeat runs."""

    strategy: str
    nodes: int
    processes: int  # on each node
    micro: int  # rows, or tokens when packed
    global_rows: int
    variant: Variant = ()

    @property
    def world(self) -> int:
        return self.nodes * self.processes

    def __str__(self) -> str:
        layout = f"{self.strategy}, {self.nodes} x {self.processes} processes"
        return ", ".join([layout, f"micro {self.micro}", f"{self.global_rows} rows", *self.variant])

    def overrides(self, asked: Asked) -> list[str]:
        """Returns the overrides of this point."""
        micro = "train.micro_batch_tokens" if asked.is_packed else "train.micro_batch_size"
        return [
            f"strategy={self.strategy}",
            f"launcher.nodes={self.nodes}",
            f"launcher.processes_per_node={self.processes}",
            f"{micro}={self.micro}",
            f"train.global_batch_size={self.global_rows}",
            *self.variant,
        ]

    def name(self, of_all_points: object) -> str:
        """Returns a folder's name: readable, with a hash of code and settings."""
        word = f"{self.strategy}-{self.nodes}x{self.processes}-m{self.micro}-g{self.global_rows}"
        return f"{word}-{digest([asdict(self), of_all_points])}"


@dataclass(frozen=True)
class Series:
    """Points that differ only in their number of processes, fewest first."""

    scaling: str  # weak or strong
    strategy: str
    micro: int
    variant: Variant
    points: tuple[Point, ...]

    @property
    def title(self) -> str:
        return ", ".join([self.scaling, self.strategy, f"micro {self.micro}", *words(self.variant)])


def all_series(asked: Asked) -> list[Series]:
    """Returns every requested series."""
    layouts = sorted({(nodes, per_node) for nodes in asked.nodes for per_node in asked.processes}, key=_size)
    found = []
    for scaling, strategy, micro, variant in product(asked.scaling, asked.strategies, asked.micro, asked.variants):
        points = tuple(
            Point(strategy, nodes, per_node, micro, _rows(scaling, asked, nodes * per_node), variant)
            for nodes, per_node in layouts
        )
        found.append(Series(scaling, strategy, micro, variant, points))
    return found


def words(variant: Variant) -> list[str]:
    """Returns key=value of each setting, the key without its group, for a drawing."""
    pairs = (text.partition("=") for text in variant)
    return [f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs]


def points_of(series: Iterable[Series]) -> list[Point]:
    """Returns every point once, in the order of the series."""
    return list(dict.fromkeys(point for each in series for point in each.points))


def _rows(scaling: str, asked: Asked, world: int) -> int:
    return asked.rows_per_process * world if scaling == "weak" else asked.global_rows


def _size(layout: tuple[int, int]) -> tuple[int, int]:
    nodes, per_node = layout
    return nodes * per_node, nodes
