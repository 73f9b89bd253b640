"""torch.compile: private settings for dynamic shapes."""

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


def disable_duck_shapes() -> None:
    """Makes torch.compile treat sizes that are equal at the first call as independent.

    Otherwise a row whose length equals the hidden size compiles a graph for that length alone.
    """
    symbolic_shapes.use_duck_shape = False


def compiled(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
    """Returns `function`, compiled at its first call; torch raises where its graph would break.

    dynamic: True: dynamic sizes from the start; None: from the second size on.
    """
    disable_duck_shapes()
    return torch.compile(function, fullgraph=True, dynamic=dynamic)
