"""No number that is none reaches a weight.

A loss that is not finite makes its whole gradient NaN, and one value that is not finite makes the norm of the whole
gradient so, which all processes share. So whoever has the norm knows whether the step may be taken, and no process has
to ask another.
"""

import torch


def poisoned(value: torch.Tensor) -> torch.Tensor:
    """Returns `value`, bit for bit; where it is not finite its gradient is NaN, though its own might be finite."""
    return value * torch.where(value.detach().isfinite(), 1.0, float("nan"))
