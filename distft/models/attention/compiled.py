"""Attention inside each document as one operation of a compiled graph, on a CPU.

How many documents a micro-batch has, and how long they are, is data here and no part of the graph, so one graph serves
every micro-batch. On accelerators the kernels for rows of documents are such operations by themselves.
"""

from itertools import pairwise
from typing import Any

import torch

from distft.compat.attention import cpu_backward, cpu_forward
from distft.models.attention.window import window_mask

Tensors = tuple[torch.Tensor, ...]


@torch.library.custom_op("distft::documents_attention", mutates_args=(), device_types="cpu")
def documents_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the attended values [1, S, H, E] and the logarithms of the softmax's sums [1, S, H], in fp32.

    query: [1, H, S, E]; key, value: [1, G, S, E], H a multiple of G. borders: int32 [D + 1] of the D documents.
    window: how many tokens up to itself a token sees; None: all of its document.
    """
    attended, sums = _empty(query)
    for here in _documents(borders):
        parts = (query[:, :, here], key[:, :, here], value[:, :, here])
        mask = _added(here, window, query)
        done = cpu_forward(*parts, 0.0, mask is None, attn_mask=mask, scale=scale)
        attended[:, here], sums[:, here] = (part.transpose(1, 2) for part in done)
    return attended, sums


@documents_attention.register_fake
def _(query: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty(query)


@torch.library.custom_op("distft::documents_attention_backward", mutates_args=(), device_types="cpu")
def documents_attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attended: torch.Tensor,
    sums: torch.Tensor,
    borders: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of query, key and value for that of the attended values, each like its own."""
    gradients = tuple(torch.empty_like(part) for part in (query, key, value))
    for here in _documents(borders):
        parts = [part[:, :, here] for part in (query, key, value)]
        of_here, done, sum_here = (part[:, here].transpose(1, 2) for part in (gradient, attended, sums))
        mask = _added(here, window, query)
        found = cpu_backward(of_here, *parts, done, sum_here, 0.0, mask is None, attn_mask=mask, scale=scale)
        for whole, part in zip(gradients, found, strict=True):
            whole[:, :, here] = part
    return gradients  # pyright: ignore[reportReturnType]


@documents_attention_backward.register_fake
def _(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> Tensors:
    return tuple(torch.empty_like(part) for part in (query, key, value))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    query, key, value, borders, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output, borders)


def _of_inputs(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    found = documents_attention_backward(gradient, *ctx.saved_tensors, ctx.scale, ctx.window)
    return *found, None, None, None


documents_attention.register_autograd(_of_inputs, setup_context=_keep)


def _empty(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, length, size = query.shape
    return query.new_empty(batch, length, heads, size), query.new_empty(batch, length, heads, dtype=torch.float32)


def _documents(borders: torch.Tensor) -> list[slice]:
    at = borders.tolist()
    return [slice(*both) for both in pairwise(at)]


def _added(here: slice, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """Returns what is added to the scores of a document, which the kernel wants instead of what is seen."""
    seen = window_mask(here.stop - here.start, window, like.device)
    return None if seen is None else torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, float("-inf"))
