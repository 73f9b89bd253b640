"""Linear layers in 4 bits multiply with the values that they stand for, and take half a byte a weight."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from distft.models.adapters import QLora, is_adapter
from distft.models.init import FreshWeights
from distft.models.quantization import Dequantized, FourBit, four_bit_weights, hold_in_four_bits
from distft.plan.memory import FOUR_BIT_BYTES
from tests.support.train_cases import tiny_model
from tests.support.trained import MODELS

# The quantiles of a normal distribution, from appendix E of arXiv 2305.14314.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def in_four_bits(layer: Any) -> tuple[Any, torch.Tensor]:
    weight = layer.weight.detach().clone()
    hold_in_four_bits(layer, "any.weight")
    layer.four_bit.quantize(weight)
    return layer, weight


@pytest.mark.parametrize("layer", [nn.Linear(576, 192), nn.Linear(64, 64, bias=False), Conv1D(192, 64)], ids=repr)
def test_products_and_gradients_are_of_the_dequantized_weight(layer: Any) -> None:
    layer, _ = in_four_bits(layer)
    dense = layer.four_bit.dequantized()
    outputs, inputs = (dense.T if isinstance(layer, Conv1D) else dense).shape
    hidden, gradient = torch.randn(2, 7, inputs, requires_grad=True), torch.randn(2, 7, outputs)
    layer(hidden).backward(gradient)
    found, hidden.grad = hidden.grad, None
    expected = F.linear(hidden, dense.T if isinstance(layer, Conv1D) else dense, layer.bias)
    assert torch.equal(layer(hidden), expected)
    expected.backward(gradient)
    assert found is not None and torch.equal(found, hidden.grad)


def test_values_are_the_nearest_of_the_papers_sixteen() -> None:
    """In each block of 64, times its largest magnitude, which is known to 8 bits. Halfway either neighbour is right."""
    torch.manual_seed(0)
    layer, weight = in_four_bits(nn.Linear(1536, 576))
    scales = weight.view(-1, 64).abs().amax(1, keepdim=True)
    shares = (weight.view(-1, 64) / scales)[:, :, None]
    nearest = torch.tensor(NF4)[(shares - torch.tensor(NF4)).abs().argmin(-1)]
    found = layer.four_bit.dequantized().view(-1, 64)
    distance, least = ((each - weight.view(-1, 64)).abs() for each in (found, nearest * scales))
    assert (distance <= least + 0.02 * scales.max()).all()
    assert ((found - nearest * scales).abs() <= 0.02 * scales.max()).double().mean() > 0.9999
    held = sum(tensor.nbytes for tensor in layer.four_bit.tensors())
    assert held == pytest.approx(FOUR_BIT_BYTES * weight.numel(), rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_blocks_of_each_family_are_in_4_bits(name: str) -> None:
    base, model = tiny_model(name), QLora(rank=4)(tiny_model(name))
    matrices = {f"{key}.weight" for key, layer in base.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    held = {weight.name: weight.shape for weight in four_bit_weights(model)}
    assert held.keys() == matrices - {"lm_head.weight"}
    assert held == {key: tuple(p.shape) for key, p in base.named_parameters() if key in held}
    left = {key for key, _ in model.named_parameters() if not is_adapter(key)}
    assert left | held.keys() == {key for key, _ in base.named_parameters()} and not left & held.keys()


def test_an_export_reads_what_the_layers_computed_with() -> None:
    base = tiny_model("gpt2")
    fresh, layers = FreshWeights(base, 0), QLora.quantized(base)
    source = Dequantized(fresh, layers)
    for name, parameter in base.named_parameters():
        shape = tuple(parameter.shape)
        plain = fresh.read(name, shape, 0, parameter.numel())
        expected = plain
        if name in layers:
            weight = FourBit(name, shape, isinstance(layers[name], Conv1D))
            weight.quantize(plain.view(shape))
            expected = weight.dequantized().reshape(-1)
            assert not torch.equal(expected, plain)
        assert torch.equal(source.read(name, shape, 0, parameter.numel()), expected)
        assert torch.equal(source.read(name, shape, 3, 10), expected[3:13])
