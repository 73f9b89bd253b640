"""Which parameters are trained."""

from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import nn
from transformers import PreTrainedModel

from distft.models.adapters import add_adapter, linear_layers

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Full:
    """Trains every parameter."""

    def __call__(self, model: Model) -> Model:
        return model.requires_grad_(True)


@dataclass(frozen=True)
class Lora:
    """Trains two matrices of `rank` beside linear layers, W + B A alpha / rank, and nothing else (arXiv 2106.09685).

    target_modules: the last part of the layers' names; all-linear: every linear layer but the head.
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
        """ValueError when the model has no linear layer of a name in `target_modules`."""
        model.requires_grad_(False)
        layers = linear_layers(model)
        for target in self.targets(model):
            if target not in layers:
                raise ValueError(f"tuning.target_modules: {target} is no linear layer. There are: {', '.join(layers)}")
            for layer in layers[target]:
                add_adapter(layer, self.rank, self.scale, self.dropout)
        return model

    def targets(self, model: PreTrainedModel) -> list[str]:
        """Returns the last part of the names of the layers that get an adapter."""
        return list(linear_layers(model)) if self.target_modules == "all-linear" else list(self.target_modules)
