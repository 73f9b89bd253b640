"""Block-diagonal attention by torch's varlen kernel: CUDA, fp16 and bf16.

Not run on a GPU yet.
"""

from typing import Unpack

import torch

from distft.compat.attention import varlen_attention
from distft.models.attention.sdpa import Options


def documents_varlen(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Unpack[Options],
) -> tuple[torch.Tensor, None]:
    """Returns the attended values [B, S, H, E], in transformers' attention interface.

    query: [B, H, S, E]; key, value: [B, G, S, E]. Without cu_seq_lens_q each of the B rows is one document.
    Raises ValueError for options that this kernel does not support.
    """
    refused = (attention_mask, options.get("softcap"), options.get("s_aux"), options.get("dropout") or None)
    if any(each is not None for each in refused):
        raise ValueError(
            "torch's varlen attention supports neither masks, capped scores, sinks nor dropout. "
            "Try: model.attention=auto"
        )
    batch, heads, length, size = query.shape
    borders, longest, seen = options.get("cu_seq_lens_q"), options.get("max_length_q"), options.get("sliding_window")
    if borders is None:
        borders = torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=query.device)
        longest = length
    assert longest is not None
    is_causal = bool(getattr(module, "is_causal", True))  # transformers' mark of an encoder
    if not is_causal and seen is not None:
        raise ValueError("attention in both directions within a window is not supported. Try: another model")
    after = 0 if is_causal else -1
    window = (-1, after) if seen is None else (seen - 1, 0)  # tokens before and after; -1: all
    parts = (part.transpose(1, 2).reshape(batch * length, -1, size) for part in (query, key, value))
    scale = options.get("scaling")
    done = varlen_attention(*parts, borders=borders, longest=longest, scale=scale, window=window)
    return done.view(batch, length, heads, size), None
