"""Tuning: full fine-tuning, LoRA adapters, and QLoRA, which holds the frozen linear layers in 4 bits.

An adapter is a child of the linear layer it modifies: `model.layers.0.self_attn.q_proj` gains `lora_A.weight` and
`lora_B.weight`. A wrapper around the layer would rename the base model's weights, for every reader and writer of them.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distft.models.build import blocks
from distft.models.heads import head_layers
from distft.models.quantization import Linear, hold_in_four_bits
from distft.runtime.determinism import seed_for

A, B = ".lora_A.weight", ".lora_B.weight"


def is_adapter(name: str) -> bool:
    """Returns whether a parameter belongs to an adapter rather than to the base model."""
    return name.endswith((A, B))


def linear_layers(model: PreTrainedModel) -> dict[str, list[Linear]]:
    """Returns the linear layers in the model's blocks, grouped by the last part of their names."""
    found: dict[str, list[Linear]] = defaultdict(list)
    for block in blocks(model).values():
        for name, module in block.named_modules():
            last = name.rpartition(".")[2]
            if isinstance(module, Linear) and last not in ("lora_A", "lora_B"):
                found[last].append(module)
    return dict(found)


class AdapterSwitch:
    """Whether the adapters of a model take part in its forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.is_on = model, True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Gives the frozen base inside the context, without dropout; PEFT's name for it is `disable_adapter`."""
        was_training, self.is_on = self.model.training, False
        self.model.eval()
        try:
            yield
        finally:
            self.is_on = True
            self.model.train(was_training)


def add_adapter(layer: Linear, rank: int, scale: float, dropout: float, switch: AdapterSwitch) -> None:
    """Makes a linear layer add B A x * scale to its output; A [rank, in] and B [out, rank] are on meta."""
    outputs, inputs = layer.weight.T.shape if isinstance(layer, Conv1D) else layer.weight.shape
    with init_empty_weights():
        layer.lora_A = nn.Linear(inputs, rank, bias=False)
        layer.lora_B = nn.Linear(rank, outputs, bias=False)
    layer.register_forward_hook(_AddLowRank(scale, dropout, switch))


@dataclass(frozen=True)
class _AddLowRank:
    scale: float
    dropout: float
    switch: AdapterSwitch

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        if not self.switch.is_on:
            return output
        hidden = F.dropout(inputs[0], self.dropout, layer.training) if self.dropout else inputs[0]
        low_rank = layer.get_submodule("lora_A")(hidden)
        return output + layer.get_submodule("lora_B")(low_rank) * self.scale


def fresh_adapter(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns a new adapter weight, initialized as in peft: A Kaiming uniform, a function of seed and name; B zero."""
    whole = torch.zeros(shape)
    if name.endswith(A):
        generator = torch.Generator().manual_seed(seed_for(seed, "init", name))
        nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=generator)
    return whole


Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Full:
    """Trains every parameter."""

    def __call__(self, model: Model) -> Model:
        return model.requires_grad_(True)


@dataclass(frozen=True)
class Lora:
    """Trains a low-rank update of linear layers, W + B A alpha / rank (arXiv 2106.09685), and a classifier's head.

    target_modules: the last part of the layers' names; all-linear: every linear layer except the head.
    dropout: of the adapter's input.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freezes the model and adds the adapters; raises ValueError for a name in `target_modules` without a layer."""
        model.requires_grad_(False)
        layers, switch = linear_layers(model), AdapterSwitch(model)
        for target in self.targets(model):
            if target not in layers:
                raise ValueError(f"tuning.target_modules: {target} is not a linear layer. Allowed: {', '.join(layers)}")
            for layer in layers[target]:
                add_adapter(layer, self.rank, self.scale, self.dropout, switch)
        model.disable_adapter = switch.off  # pyright: ignore  # for losses with the frozen base as reference
        if model.get_output_embeddings() is None:  # a new head has nothing to adapt
            for name in head_layers(model):
                getattr(model, name).requires_grad_(True)
        return model

    def targets(self, model: PreTrainedModel) -> list[str]:
        """Returns the last part of the names of the layers that get an adapter."""
        return list(linear_layers(model)) if self.target_modules == "all-linear" else list(self.target_modules)


@dataclass(frozen=True)
class QLora(Lora):
    """LoRA over a base model whose linear layers, except the head, are in 4 bits (see distft.models.quantization)."""

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        layers = self.quantized(model)
        super().__call__(model)
        for name, layer in layers.items():
            hold_in_four_bits(layer, name)
        return model

    @staticmethod
    def quantized(model: PreTrainedModel) -> dict[str, Linear]:
        """Returns the layers that are held in 4 bits, by the names of their weights in the base model."""
        found = {id(layer) for layers in linear_layers(model).values() for layer in layers}
        return {f"{name}.weight": each for name, each in model.named_modules() if id(each) in found}  # pyright: ignore
