"""The saved part of an engine: tensors and their momentum, unsharded on one process."""

from collections.abc import Iterator
from typing import Any, cast

import torch

from distft.strategies.engine import Engine, Piece
from distft.tensors.regions import Flat


class _Held:
    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.optimizer = torch.optim.SGD(list(tensors.values()))
        for tensor in tensors.values():
            self.optimizer.state[tensor]["momentum"] = torch.randn_like(tensor)

    def pieces(self) -> Iterator[Piece]:
        for name, tensor in self.tensors.items():
            yield Piece(name, tuple(tensor.shape), Flat(0, tensor.numel()), tensor)


def held(tensors: dict[str, torch.Tensor]) -> Engine:
    held: Any = _Held(tensors)
    return cast(Engine, held)
