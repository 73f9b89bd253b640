"""How a chunk of a checkpoint is called: `<slot>|<parameter>|<where>`."""

from dataclasses import dataclass
from math import prod

from distft.runtime.regions import Box, Flat, Region, Shape


@dataclass(frozen=True)
class ChunkName:
    """Which elements of `slot` of parameter `name` a stored tensor holds."""

    slot: str
    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.slot}|{self.name}|{self.where}"

    @staticmethod
    def of(slot: str, name: str, region: Region) -> "ChunkName":
        where = f"{region.start}" if isinstance(region, Flat) else ",".join(map(str, region.offsets))
        return ChunkName(slot, name, where)

    @staticmethod
    def parse(text: str) -> "ChunkName":
        return ChunkName(*text.split("|"))

    def region(self, sizes: Shape) -> Region:
        """Returns the elements that a stored tensor of shape `sizes` under this name holds."""
        if "," in self.where:
            return Box(tuple(map(int, self.where.split(","))), sizes)
        return Flat(int(self.where), prod(sizes))
