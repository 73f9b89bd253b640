"""The weights that an export reads: of one checkpoint, their moving average (EMA), or the mean of several checkpoints.

A mean is taken while reading, one tensor at a time, so no second copy of the model is held. It is rounded once: the
sum of the fp32 weights is fp64. Averaging the last checkpoints of a run: Izmailov et al. 2018, arXiv 1803.05407.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from distft.checkpoint.format import EMA, PARAMETER
from distft.checkpoint.load import Checkpoint


class SavedWeights:
    """Reads the trained weights of checkpoints of one run."""

    def __init__(self, checkpoints: Sequence[Checkpoint], ema: bool = False) -> None:
        """checkpoints: oldest first. ema: read the moving average where a checkpoint has one.

        ValueError when the checkpoints hold different parameters.
        """
        self.checkpoints, self.ema = checkpoints, ema
        newest = checkpoints[-1]
        for other in checkpoints[:-1]:
            if {key: other.shapes[key] for key in other.shapes if key[0] == PARAMETER} != {
                key: newest.shapes[key] for key in newest.shapes if key[0] == PARAMETER
            }:
                raise ValueError(f"{other.folder} and {newest.folder} hold different parameters: no mean of them")

    @property
    def folder(self) -> Path:
        """The folder of the newest checkpoint."""
        return self.checkpoints[-1].folder

    @property
    def is_mean(self) -> bool:
        """Whether no live model has had these weights, so that there are no logits to compare with."""
        return len(self.checkpoints) > 1

    @property
    def names(self) -> list[str]:
        return self.checkpoints[-1].names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.checkpoints[-1].shapes[PARAMETER, name]

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count of a parameter, row-major, as fp32 [count]."""
        parts = (self._read(each, name, shape, start, count) for each in self.checkpoints)
        if not self.is_mean:
            return next(parts)
        total = torch.zeros(count, dtype=torch.float64)
        for part in parts:
            total += part
        return (total / len(self.checkpoints)).float()

    def _read(self, checkpoint: Checkpoint, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        slot = EMA if self.ema and (EMA, name) in checkpoint.shapes else PARAMETER
        return checkpoint.read(name, shape, start, count, slot)
