"""Frozen linear layers in 4 bits, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314), by bitsandbytes.

NF4: each value is one of 16 quantiles of a normal distribution, times the largest magnitude of its block of 64. These
scales are themselves stored in 8 bits (double quantization): 0.516 bytes a weight. A product multiplies with the values
that the 4 bits stand for, in the dtype of its input, and the backward pass computes them again.

The 4 bits are no parameters. No strategy shards, gathers or saves them: every process holds all of them, quantized from
the base model as it starts. Its kernels for accelerators have not been run on a GPU yet.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import cache, partial
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from distft.tensors.streaming import WeightSource

Linear = nn.Linear | Conv1D
FILE = "quantization_config.json"  # of an exported adapter, as transformers' BitsAndBytesConfig reads it
SETTINGS = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
_BLOCK = 64


class FourBit:
    """A weight [out, in] in 4 bits; none before `quantize`."""

    def __init__(self, name: str, shape: tuple[int, ...], is_transposed: bool) -> None:
        """name, shape: of the base model's parameter. is_transposed: it is stored as [in, out]."""
        self.name, self.shape, self.is_transposed = name, shape, is_transposed
        self.values: torch.Tensor | None = None  # uint8, two weights each
        self.state: Any = None
        self.multiply = _bitsandbytes().matmul_4bit

    def quantize(self, weight: torch.Tensor) -> None:
        """Keeps `weight`, of this parameter's shape, in 4 bits on its device."""
        matrix = weight.T if self.is_transposed else weight
        self.values, self.state = _bitsandbytes().functional.quantize_4bit(
            matrix.float().contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
        )

    def dequantized(self) -> torch.Tensor:
        """Returns the weight that products in fp32 see, of this parameter's shape."""
        assert self.values is not None
        self.state.dtype = torch.float32
        matrix = _bitsandbytes().functional.dequantize_4bit(self.values, self.state)
        return matrix.T if self.is_transposed else matrix

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yields what is kept in memory."""
        assert self.values is not None
        yield from (self.values, self.state.absmax, self.state.state2.absmax)


def hold_in_four_bits(layer: Linear, name: str) -> None:
    """Replaces the frozen weight of a linear layer by a FourBit that is filled later. name: of the parameter."""
    weight = FourBit(name, tuple(layer.weight.shape), isinstance(layer, Conv1D))
    changed: Any = layer
    del changed.weight
    changed.four_bit = weight
    changed.forward = partial(_product, layer, weight)


def _product(layer: Linear, weight: FourBit, inputs: torch.Tensor) -> torch.Tensor:
    if weight.state.dtype != inputs.dtype:  # else the backward pass would make an fp32 copy first
        weight.state.dtype = inputs.dtype
    return weight.multiply(inputs, weight.values, weight.state, bias=layer.bias)


def four_bit_weights(model: nn.Module) -> list[FourBit]:
    """Returns the weights of a model that are held in 4 bits, in the order of its layers."""
    held = (getattr(layer, "four_bit", None) for layer in model.modules())
    return [weight for weight in held if isinstance(weight, FourBit)]


class Dequantized:
    """Reads a base model as its layers in 4 bits compute with it."""

    def __init__(self, source: WeightSource, layers: Mapping[str, Linear]) -> None:
        """layers: those in 4 bits, by the names of their weights."""
        self.source, self.layers = source, layers
        self.last: tuple[str, torch.Tensor] = ("", torch.empty(0))

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count of parameter `name`, row-major, as fp32 [count]."""
        if name not in self.layers:
            return self.source.read(name, shape, start, count)
        if self.last[0] != name:
            weight = FourBit(name, shape, isinstance(self.layers[name], Conv1D))
            weight.quantize(self.source.read(name, shape, 0, prod(shape)).view(shape))
            self.last = (name, weight.dequantized().reshape(-1))
        return self.last[1][start : start + count]


@cache
def _bitsandbytes() -> ModuleType:
    """Imports bitsandbytes, which warns of a faster kernel for CPUs that it would download."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes
    import bitsandbytes.functional

    return bitsandbytes
