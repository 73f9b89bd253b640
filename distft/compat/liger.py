"""Liger Kernel, an optional package: replaces norms, rotary embeddings and gated MLPs of a model by fused kernels."""

from importlib.util import find_spec

from torch import nn
from transformers import PreTrainedModel

PACKAGE = "liger_kernel"
SEEN = "liger-kernel 0.8.5, transformers 5.23; its kernels are Triton's and have not run on a device yet"


def is_installed() -> bool:
    return find_spec(PACKAGE) is not None


def put_into(model: PreTrainedModel) -> None:
    """Replaces what the model's small layers compute by Liger's kernels; names and weights stay.

    Its losses are left out: distft's own projects trained positions alone, and Liger's asks the device how many there
    are, in each forward. Trap: rotary angles are replaced in transformers' module, for all models of this process.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # pyright: ignore[reportMissingImports]

    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)


def is_in(module: nn.Module) -> bool:
    """Returns whether a live layer uses a Liger kernel."""
    forward = getattr(module.forward, "__func__", module.forward)
    return str(forward.__module__).startswith(f"{PACKAGE}.")
