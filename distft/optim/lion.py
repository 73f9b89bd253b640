"""Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): every weight moves by the learning rate, in the direction of
an average of its gradients; one moment a weight, where AdamW has two."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """Its rate is a third to a tenth of AdamW's, and its weight decay as many times higher.

    betas: shares of the moment in the direction of a step, and in the next moment.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore  # torch's returns a loss
        """Updates the weights; no closure is called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["betas"], group["weight_decay"])

    def _update(self, parameter: torch.Tensor, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        moment = state["exp_avg"]
        direction = moment.mul(betas[0]).add_(gradient, alpha=1 - betas[0]).sign_()
        parameter.mul_(1 - lr * weight_decay).add_(direction, alpha=-lr)
        moment.mul_(betas[1]).add_(gradient, alpha=1 - betas[1])
