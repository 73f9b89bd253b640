"""The format of a checkpoint: named fp32 tensors in chunks, whatever strategy and world wrote them.

    checkpoints/
        index.json                    steps that may be there: written before a checkpoint appears
        latest -> step-00000020       best -> step-00000010
        step-00000020/
            manifest.json             files with sizes and hashes, shapes, step, versions, config
            rank-00000.safetensors    this rank's chunks

A chunk is called `<slot>|<parameter>|<where>`. `slot` is `parameter`, or an optimizer state such as `exp_avg`, which
has its own shape: `step` has none. `where` is the first element of a flat range, or the offsets of a box, `0,64`.
Only trained parameters are saved. Nothing here is a pickle.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from distft.runtime.regions import Box, Flat, Region, Shape

FORMAT = 2
MANIFEST = "manifest.json"
PARAMETER = "parameter"


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


def step_dir(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
