"""Block-diagonal attention by torch's varlen kernel: CUDA, fp16 and bf16.

Not run on a GPU yet.
"""

from typing import Any

import torch

from distft.compat.attention import varlen_attention


def documents_varlen(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Returns the attended values [B, S, H, E], in transformers' attention interface.

    query: [B, H, S, E]; key, value: [B, G, S, E]. cu_seq_lens_q: int32 [D + 1], the document boundaries of a packed
    row, of at most max_length_q tokens each; None: each of the B rows is one document.
    Raises ValueError for options that this kernel does not support.
    """
    if attention_mask is not None or softcap is not None or s_aux is not None or dropout:
        raise ValueError(
            "torch's varlen attention supports neither masks, capped scores, sinks nor dropout. "
            "Try: model.attention=auto"
        )
    batch, heads, length, size = query.shape
    if cu_seq_lens_q is None:
        cu_seq_lens_q = torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=query.device)
        max_length_q = length
    assert max_length_q is not None
    window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)  # tokens before and after, causal
    parts = (part.transpose(1, 2).reshape(batch * length, -1, size) for part in (query, key, value))
    done = varlen_attention(*parts, borders=cu_seq_lens_q, longest=max_length_q, scale=scaling, window=window)
    return done.view(batch, length, heads, size), None
