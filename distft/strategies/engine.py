"""The contract of a strategy, and the flat pieces that make checkpoints independent of it.

    engine = strategy.setup(build_model, make_optimizer, world, precision)

A strategy adds memory layout and communication; it never changes what a step computes.

A loss that is not finite makes its whole gradient NaN, and one value that is not finite makes the norm of the whole
gradient so, which all processes share. So whoever has the norm knows whether the step may be taken, and no process has
to ask another.

Trap: calling parts of a wrapped model from outside loses gradient sync under DDP silently and raises under FSDP2,
so whatever needs the model's outputs is a loss too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from distft.data.batches import Batch
from distft.runtime.process_group import World
from distft.tensors.regions import Flat, Region, Shape


def nan_if_non_finite(value: torch.Tensor) -> torch.Tensor:
    """Returns `value`, bit for bit; where it is not finite its gradient is NaN, though its own might be finite."""
    return value * torch.where(value.detach().isfinite(), 1.0, float("nan"))


Sums = dict[str, torch.Tensor]
Loss = Callable[[nn.Module, Batch], tuple[torch.Tensor, Sums]]


class Objective(nn.Module):
    """Computes a loss of a model: forward(batch) gives the sum over the batch's targets, and further sums."""

    def __init__(self, model: nn.Module, loss: Loss, blocks: Sequence[nn.Module]) -> None:
        """blocks: the repeated parts of the model, which strategies shard and gather one at a time."""
        super().__init__()
        self.model = model
        self.loss = loss
        self.blocks = tuple(blocks)  # a tuple: not registered a second time

    def forward(self, batch: Batch, loss: Loss | None = None) -> tuple[torch.Tensor, Sums]:
        return (loss or self.loss)(self.model, batch)

    def own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields every parameter under the name it has in the model alone, tied ones once."""
        return self.model.named_parameters()


BuildModel = Callable[[], Objective]  # parameters on the meta device, buffers real
MakeOptimizer = Callable[[list[tuple[nn.Parameter, int]]], torch.optim.Optimizer]  # of (parameter, number of dims)

_BLOCK = 2**22  # elements whose bits are added up at a time
_RUN = 1024  # elements whose squares are added up in fp32


@dataclass(frozen=True)
class Piece:
    """Elements of a parameter, or of an optimizer state, and where this process keeps them.

    Where a state has the shape of its parameter, the same elements of it lie at the same place of its own tensor.
    """

    name: str
    shape: Shape  # of the whole tensor
    region: Region
    owner: torch.Tensor  # the fp32 tensor that the optimizer steps, the key of its state; if frozen, of any dtype
    offset: int = 0  # of the first element in the owner's flat local data
    writes: bool = True  # of all processes that keep these elements, the one that saves them
    slot: str = "parameter"
    frozen: bool = False  # not trained: not saved, read from the base model

    @property
    def key(self) -> tuple[str, str]:
        return self.slot, self.name

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns these elements of the owner, or of a state laid out like it: flat, to read or to fill."""
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        return local.detach().view(-1)[self.offset : self.offset + self.region.count]

    def data(self) -> torch.Tensor:
        return self.of(self.owner)


def shares(count: int, replicas: int, replica: int) -> Iterator[tuple[range, bool]]:
    """Cuts 0..count into one share per replica; each replica keeps all shares and writes its own."""
    borders = [count * i // replicas for i in range(replicas + 1)]
    for i, (start, stop) in enumerate(pairwise(borders)):
        if stop > start:
            yield range(start, stop), i == replica


def whole_pieces(name: str, parameter: nn.Parameter, rank: int, replicas: int) -> Iterator[Piece]:
    """Yields the pieces of a weight that is not trained and whole on each of `replicas` processes."""
    shape = tuple(parameter.shape)
    for part, writes in shares(parameter.numel(), replicas, rank):
        yield Piece(name, shape, Flat(part.start, len(part)), parameter, part.start, writes, frozen=True)


def bit_sum(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Returns the wrapping sum of the tensors' bits, int64: equal for equal weights, else all but surely not."""
    bits = (t.detach().view(torch.int32 if t.itemsize == 4 else torch.int16).reshape(-1) for t in tensors)
    return torch.stack([block.long().sum() for flat in bits for block in flat.split(_BLOCK)]).sum()


def sum_of_squares(tensors: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Returns the sum of the squares of all elements, fp64 0-d, to some 1e-9.

    Squares are added up in fp32 over runs of 1,024 elements, and across runs in fp64: no tensor is copied to fp64.
    Trap: torch's own norms add up a whole tensor in fp32; for 49,152 x 576 elements a CPU's is 0.2% low, and 0.1% when
    the same elements lie in two tensors.
    """
    parts = []  # norms of runs, and the elements left over, each its own norm
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        whole = flat.numel() // _RUN * _RUN
        if whole:
            parts.append(torch.linalg.vector_norm(flat[:whole].view(-1, _RUN), dim=1, dtype=torch.float32))
        if whole < flat.numel():
            parts.append(flat[whole:])
    if not parts:
        return torch.zeros((), dtype=torch.float64, device=device)
    return torch.cat(parts).double().square().sum()


def clip_coefficient(norm: float, max_norm: float | None) -> float:
    """Returns what a gradient of this norm is scaled by: torch's and DeepSpeed's rule."""
    return max_norm / (norm + 1e-6) if max_norm is not None and norm > max_norm else 1.0


class Engine(Protocol):
    """A model, its optimizer and its layout on this process."""

    objective: Objective
    optimizer: torch.optim.Optimizer

    def forward(self, batch: Batch, loss: Loss | None = None) -> tuple[torch.Tensor, Sums]: ...

    def backward(self, value: torch.Tensor, scale: float, last: bool) -> None:
        """Adds the gradient of `value * scale`, averaged over processes; `last` ends the accumulation."""
        ...

    def squared_norm(self) -> torch.Tensor:
        """Returns this process's share of the squared norm of the gradient, fp64 0-d on the world's device.

        The sum over all processes is the whole. It reads no value and waits for nobody.
        """
        ...

    def update(self, norm: float, max_norm: float | None) -> None:
        """Updates the weights with the gradient clipped to `max_norm`, unless `norm` is not finite; then drops it."""
        ...

    def train(self, mode: bool) -> None: ...

    def pieces(self) -> Iterator[Piece]:
        """Yields every element of every parameter that this process keeps, once."""
        ...

    def refresh(self) -> None:
        """Makes the working weights follow the fp32 pieces after these were filled."""
        ...

    def fingerprint(self) -> tuple[torch.Tensor, ProcessGroup | None]:
        """Returns a sum over the bits of the weights this process keeps, and the group whose members keep the same."""
        ...

    def effective(self) -> dict[str, object]:
        """Reads the settings back from the live objects: what is in force, not what was asked for."""
        ...


class Strategy(Protocol):
    def setup(
        self, build_model: BuildModel, make_optimizer: MakeOptimizer, world: World, precision: torch.dtype
    ) -> Engine: ...
