"""The settings of an optimizer's groups, with parameters by name."""

from typing import Any

import torch
from torch import nn


def named_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Returns `param_groups` as torch's get_optimizer_state_dict gives them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [group | {"params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
