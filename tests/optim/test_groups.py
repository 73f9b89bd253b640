"""Weight decay acts on matrices; a rate follows the factor, never the last rate."""

import pytest
import torch
from torch import nn

from distft.optim.groups import check_effective, decay_groups, set_learning_rate


def test_matrices_decay_and_vectors_do_not() -> None:
    layer, frozen = nn.Linear(3, 2), nn.Parameter(torch.ones(2, 2), requires_grad=False)
    groups = decay_groups([(layer.weight, 2), (layer.bias, 1), (frozen, 2)])
    optimizer = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.5)
    assert [(g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [(0.5, 1), (0.0, 1)]


def test_the_rate_is_always_a_factor_of_the_initial_one() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.4)
    rates = [set_learning_rate(optimizer, factor) for factor in (0.5, 0.5, 1.0)]
    assert rates == pytest.approx([0.2, 0.2, 0.4])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4)


def test_a_setting_ignored_by_the_optimizer_is_detected() -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=0.1, betas=(0.9, 0.95))
    assert check_effective(optimizer, {"lr": 0.1, "betas": [0.9, 0.95]})["weight_decay"] == 0.01
    with pytest.raises(RuntimeError, match=r"optimizer.lr=0.2 is not in effect: the optimizer has 0.1"):
        check_effective(optimizer, {"lr": 0.2})
    with pytest.raises(RuntimeError, match=r"optimizer.momentum=0.9 is not in effect: the optimizer has nothing"):
        check_effective(optimizer, {"momentum": 0.9})
