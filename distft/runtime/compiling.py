"""torch.compile, as everything here uses it: whole functions, whatever the sizes of their tensors are."""

from collections.abc import Callable
from typing import Any

import torch

from distft.compat.compiler import tell_equal_sizes_apart


def compiled(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
    """Returns `function`, compiled at its first call; torch's own error where its graph would break.

    dynamic: for tensors of any size; None: of any once a second size has come.
    """
    tell_equal_sizes_apart()
    return torch.compile(function, fullgraph=True, dynamic=dynamic)
