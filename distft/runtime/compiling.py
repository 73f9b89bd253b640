"""torch.compile, as everything here uses it: whole functions, whatever the sizes of their tensors are."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental import _config as symbolic_shapes


def compiled(function: Callable[..., Any], *, dynamic: bool | None = True) -> Callable[..., Any]:
    """Returns `function`, compiled at its first call; torch's own error where its graph would break.

    dynamic: for tensors of any size; None: of any once a second size has come.
    """
    symbolic_shapes.use_duck_shape = False  # else a row as long as a hidden state is wide is one graph, for it alone
    return torch.compile(function, fullgraph=True, dynamic=dynamic)
