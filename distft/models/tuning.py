"""Which parameters are trained."""

from dataclasses import dataclass
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Full:
    """Trains every parameter."""

    def __call__(self, model: Model) -> Model:
        return model.requires_grad_(True)
