"""Attention as one operation of a compiled graph gives the bits of a call for each document, forward and backward."""

import pytest
import torch

from distft.models.attention.sdpa import documents_attention, documents_sdpa

LENGTHS = (7, 40, 1, 21)
HEADS, GROUPS, SIZE = 6, 2, 16


def parts(dtype: torch.dtype) -> list[torch.Tensor]:
    """Returns query, key and value as a projection leaves them: [1, S, heads, size], seen the other way round."""
    given = torch.Generator().manual_seed(0)
    made = [torch.randn(1, sum(LENGTHS), heads, SIZE, generator=given) for heads in (HEADS, GROUPS, GROUPS)]
    return [part.to(dtype).requires_grad_() for part in made]


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_a_call_for_each_document(dtype: torch.dtype, window: int | None, scale: float | None) -> None:
    mine, own = parts(dtype), parts(dtype)
    borders = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    turned = [part.transpose(1, 2) for part in own]
    expected, _ = documents_sdpa(
        torch.nn.Identity(), *turned, None, scaling=scale, sliding_window=window, document_lengths=LENGTHS
    )
    done, _ = documents_attention(*(part.transpose(1, 2) for part in mine), borders, scale, window)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(gradient)
    done.backward(gradient)
    assert torch.equal(done, expected)
    for one, other in zip(mine, own, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_it_keeps_torchs_rules_for_operations() -> None:
    """Its shapes without data are those with data, it writes to no input, and its gradients are as registered."""
    borders = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    given = tuple(part.detach().transpose(1, 2).requires_grad_() for part in parts(torch.float32))
    torch.library.opcheck(documents_attention, (*given, borders, None, None))
