"""No number that is none reaches a weight: what every strategy does around a step's gradient.

A loss that is not finite makes its whole gradient NaN, and one value that is not finite makes the norm of the whole
gradient so, which all processes share. So whoever has the norm knows whether the step may be taken, and no process has
to ask another.
"""

import torch


def poisoned(value: torch.Tensor) -> torch.Tensor:
    """Returns `value`, bit for bit; where it is not finite its gradient is NaN, though its own might be finite."""
    return value * torch.where(value.detach().isfinite(), 1.0, float("nan"))


def step_if_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """Takes the optimizer's step unless the gradient's norm is not finite; weights and moments are then untouched.

    Trap: the host waits for the norm here, and so the device idles while the step is launched. An optimizer that takes
    a flag on the device (`found_inf`) takes it as a plain tensor, and refuses it beside the DTensors of FSDP2.
    """
    if bool(norm.isfinite()):
        optimizer.step()
