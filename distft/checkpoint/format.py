"""The format of a checkpoint: named fp32 tensors in flat chunks, whatever strategy and world wrote them.

    step-00000020/
        manifest.json             files with sizes and hashes, step, versions, scalars of the optimizer
        rank-00000.safetensors    this rank's chunks, called `<slot>|<parameter>|<first element>`

`slot` is `parameter`, or an optimizer state such as `exp_avg`. Nothing here is a pickle.
"""

from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
PARAMETER = "parameter"


@dataclass(frozen=True)
class ChunkName:
    """Which elements a stored tensor holds: from `start` on, row-major, of `slot` of parameter `name`."""

    slot: str
    name: str
    start: int

    def __str__(self) -> str:
        return f"{self.slot}|{self.name}|{self.start}"

    @staticmethod
    def parse(text: str) -> "ChunkName":
        slot, name, start = text.split("|")
        return ChunkName(slot, name, int(start))


def step_dir(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
