"""Lion steps as the package of its best-known implementation does."""

import pytest
import torch
from lion_pytorch import Lion as Reference

from distft.optim.lion import Lion


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_are_those_of_lion_pytorch(weight_decay: float) -> None:
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(each) for each in torch.randn(40, 70).expand(2, -1, -1).clone())
    own = Lion([mine], lr=1e-2, betas=(0.9, 0.99), weight_decay=weight_decay)
    reference = Reference([theirs], lr=1e-2, betas=(0.9, 0.99), weight_decay=weight_decay)
    for _ in range(20):
        theirs.grad = torch.randn(40, 70)
        mine.grad = theirs.grad.clone()
        own.step()
        reference.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(own.state[mine]["exp_avg"], reference.state[theirs]["exp_avg"], rtol=1e-5, atol=1e-7)


def test_every_weight_moves_by_the_rate_and_keeps_one_number() -> None:
    weight, still = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), torch.nn.Parameter(torch.ones(2))
    optimizer = Lion([weight, still], lr=0.5)
    weight.grad = torch.tensor([1e-30, 5.0, 0.0])
    optimizer.step()
    assert weight.tolist() == [0.5, -2.5, 3.0] and still.tolist() == [1.0, 1.0]
    assert [list(state) for state in optimizer.state.values()] == [["exp_avg"]]
