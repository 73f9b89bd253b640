"""torch.compile's own switches."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental import _config as symbolic_shapes

from distft.compat.reach import Reach

REACHES = (
    Reach(
        "torch.fx.experimental._config.use_duck_shape",
        "torch 2.11 to 2.13",
        "one graph serves every length, also one that equals another size of the model",
    ),
)


def tell_equal_sizes_apart() -> None:
    """Has torch.compile take sizes that are equal at the first call for different ones.

    Otherwise a row as long as a hidden state is wide makes a graph for that length alone.
    """
    symbolic_shapes.use_duck_shape = False


def compiled(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
    """Returns `function`, compiled at its first call; torch's own error where its graph would break.

    dynamic: for tensors of any size; None: of any once a second size has come.
    """
    tell_equal_sizes_apart()
    return torch.compile(function, fullgraph=True, dynamic=dynamic)
