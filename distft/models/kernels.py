"""Fused kernels for what lies between a model's matrix products, where `model.kernels` names them."""

from torch import nn
from transformers import PreTrainedModel

from distft.compat import liger


def use_kernels(model: PreTrainedModel, word: str) -> None:
    """Puts the kernels of that name, none or liger, into the model.

    ValueError when they are not installed, or have nothing for this model: nothing takes their place.
    """
    if word == "none":
        return
    if not liger.is_installed():
        raise ValueError("model.kernels=liger: liger-kernel is not installed. Try: pip install liger-kernel")
    liger.put_into(model)
    if not fused_layers(model):
        name = type(model).__name__
        raise ValueError(f"model.kernels=liger: Liger has no kernels for {name}. Try: model.kernels=none")


def fused_layers(model: nn.Module) -> dict[str, int]:
    """Returns class -> number of the live model's layers that compute by such a kernel."""
    found: dict[str, int] = {}
    for module in model.modules():
        if liger.is_in(module):
            found[type(module).__name__] = found.get(type(module).__name__, 0) + 1
    return found
