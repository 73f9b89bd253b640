"""Block-diagonal attention by torch's scaled_dot_product_attention, one call per document: on any device.

It computes only the diagonal blocks, and needs a mask only for windows shorter than a document.

For torch.compile on CPUs, the loop over documents is a custom operation: their number and lengths are data, not part of
the graph, so one graph serves every micro-batch. On accelerators, varlen kernels are such operations themselves.

Trap: torch keeps compiled graphs on disk and knows an operation by its name. One with another signature needs another
name, of forward and backward, or a graph that an older version has compiled calls it with the old arguments.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypedDict, Unpack

import torch
from torch.nn import functional as F

from distft.compat.attention import cpu_backward, cpu_forward


def window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Returns the causal mask [length, length] of a sliding window; None where plain causal attention is the same.

    window: attended tokens, itself included; None: all.
    """
    if window is None or window >= length:
        return None
    at = torch.arange(length, device=device)
    behind = at[:, None] - at[None, :]
    return (behind >= 0) & (behind < window)


Tensors = tuple[torch.Tensor, ...]


class Options(TypedDict, total=False):
    """What transformers' attention interface passes by keyword, as far as a kernel here reads it.

    cu_seq_lens_q: int32 [D + 1], the document boundaries of a packed row, of at most max_length_q tokens each;
    document_lengths: the same as numbers of the host.
    """

    dropout: float
    scaling: float | None
    sliding_window: int | None
    softcap: float | None
    s_aux: torch.Tensor | None
    document_lengths: Sequence[int] | None
    cu_seq_lens_q: torch.Tensor | None
    max_length_q: int | None


@torch.library.custom_op("distft::block_diagonal_attention", mutates_args=(), device_types="cpu")
def documents_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the attended values [1, S, H, E] and the softmax's logsumexp [1, S, H] in fp32.

    query: [1, H, S, E]; key, value: [1, G, S, E], H a multiple of G. borders: int32 [D + 1] of the D documents.
    window: attended tokens, itself included; None: the whole document.
    """
    attended, sums = _empty(query)
    for here in _documents(borders):
        parts = (query[:, :, here], key[:, :, here], value[:, :, here])
        mask = _additive_mask(here, window, query)
        done = cpu_forward(*parts, 0.0, mask is None, attn_mask=mask, scale=scale)
        attended[:, here], sums[:, here] = (part.transpose(1, 2) for part in done)
    return attended, sums


@documents_attention.register_fake
def _(query: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty(query)


@torch.library.custom_op("distft::block_diagonal_attention_backward", mutates_args=(), device_types="cpu")
def documents_attention_backward(
    gradient: torch.Tensor, saved: Sequence[torch.Tensor], scale: float | None, window: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of query, key and value, each of the shape of its input.

    saved: query, key and value, the two results of documents_attention, and borders.
    """
    query, key, value, attended, sums, borders = saved
    gradients = tuple(torch.empty_like(part) for part in (query, key, value))
    for here in _documents(borders):
        parts = [part[:, :, here] for part in (query, key, value)]
        of_here, done, sum_here = (part[:, here].transpose(1, 2) for part in (gradient, attended, sums))
        mask = _additive_mask(here, window, query)
        found = cpu_backward(of_here, *parts, done, sum_here, 0.0, mask is None, attn_mask=mask, scale=scale)
        for whole, part in zip(gradients, found, strict=True):
            whole[:, :, here] = part
    return gradients  # pyright: ignore[reportReturnType]


@documents_attention_backward.register_fake
def _(gradient: torch.Tensor, saved: Sequence[torch.Tensor], *_: Any) -> Tensors:
    return tuple(torch.empty_like(part) for part in saved[:3])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    query, key, value, borders, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output, borders)


def _of_inputs(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    found = documents_attention_backward(gradient, ctx.saved_tensors, ctx.scale, ctx.window)
    return *found, None, None, None


documents_attention.register_autograd(_of_inputs, setup_context=_keep)


def _empty(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, length, size = query.shape
    return query.new_empty(batch, length, heads, size), query.new_empty(batch, length, heads, dtype=torch.float32)


def _documents(borders: torch.Tensor) -> list[slice]:
    at = borders.tolist()
    return [slice(*both) for both in pairwise(at)]


def _additive_mask(here: slice, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """Returns the additive mask of a document, which the kernel takes instead of a boolean one."""
    seen = window_mask(here.stop - here.start, window, like.device)
    return None if seen is None else torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, float("-inf"))


def documents_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Unpack[Options],
) -> tuple[torch.Tensor, None]:
    """Returns the attended values [B, S, H, E], in transformers' attention interface.

    query: [B, H, S, E]; key, value: [B, G, S, E], H a multiple of G. Without document_lengths each of the B rows is
    one document. A compiled graph uses their boundaries, cu_seq_lens_q, instead.
    Raises ValueError for options that this kernel does not support.
    """
    if attention_mask is not None or options.get("softcap") is not None or options.get("s_aux") is not None:
        raise ValueError(
            "attention by torch's SDPA supports neither masks, capped scores nor sinks. Try: model.attention=eager"
        )
    dropout, scale, window = options.get("dropout", 0.0), options.get("scaling"), options.get("sliding_window")
    is_causal = bool(getattr(module, "is_causal", True))  # transformers' mark of an encoder
    if not is_causal and window is not None:
        raise ValueError("attention in both directions within a window is not supported. Try: another model")
    if torch.compiler.is_compiling():
        borders = options.get("cu_seq_lens_q")
        assert is_causal and not dropout and borders is not None, "see distft.models.build"
        return documents_attention(query, key, value, borders, scale, window)[0], None
    lengths = list(options.get("document_lengths") or [query.shape[2]])
    done = [
        _attend(*parts, dropout, scale, window, is_causal).transpose(1, 2)
        for parts in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return (torch.cat(done, 1) if len(done) > 1 else done[0]), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scale: float | None,
    window: int | None,
    is_causal: bool,
) -> torch.Tensor:
    mask = window_mask(query.shape[2], window, query.device)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=is_causal and mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
