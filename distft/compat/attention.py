"""torch's attention kernels for rows of documents: the variable-length one for CUDA, and the CPU's own operators."""

from typing import Any

import torch
from torch.nn.attention import varlen

from distft.compat.reach import Reach, known

_SEEN = "torch 2.11 to 2.13"
REACHES = (
    Reach(
        "torch.nn.attention.varlen.varlen_attn",
        f"{_SEEN}, on CPU its signature alone",
        "attention inside each document on CUDA",
        takes=("cu_seq_q", "cu_seq_k", "max_q", "max_k", "scale", "window_size"),
        younger=("num_splits", "enable_gqa"),
    ),
    Reach(
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
        _SEEN,
        "one operation of a compiled graph for any documents",
        takes=("attn_mask", "scale"),
    ),
    Reach(
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward",
        _SEEN,
        "its backward pass",
        takes=("attn_mask", "scale"),
    ),
)

cpu_forward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
cpu_backward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scale: float | None,
    window: tuple[int, int],
) -> torch.Tensor:
    """Returns the attended values [T, H, E] of packed documents, with block-diagonal attention.

    query: [T, H, E]; key, value: [T, G, E], H a multiple of G. borders: int32 [D + 1] of the D documents, of at most
    `longest` tokens. window: tokens before and after that a token sees; -1: all.
    torch 2.11 takes as many key heads as query heads, so there they are repeated, at H / G times the memory for key and
    value; and it has no `num_splits`, so its kernel decides. Not run on a device yet.
    """
    options = known(varlen.varlen_attn, num_splits=1)  # else another document may change a document's bits
    heads, groups = query.shape[1], key.shape[1]
    if heads != groups:
        grouped = known(varlen.varlen_attn, enable_gqa=True)
        options |= grouped
        if not grouped:
            key, value = (part.repeat_interleave(heads // groups, dim=1) for part in (key, value))
    done: Any = varlen.varlen_attn(
        query,
        key,
        value,
        cu_seq_q=borders,
        cu_seq_k=borders,
        max_q=longest,
        max_k=longest,
        scale=scale,
        window_size=window,
        **options,
    )
    return done
