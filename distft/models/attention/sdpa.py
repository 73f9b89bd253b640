"""Attention inside each document by torch's scaled_dot_product_attention, one call for each: on any device.

What it costs is the documents' own squares, and no mask is ever made but for windows narrower than a document.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from distft.models.attention.compiled import documents_attention
from distft.models.attention.window import window_mask


def documents_sdpa(
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
    document_lengths: Sequence[int] | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Returns the attended values [B, S, H, E], in transformers' attention interface.

    query: [B, H, S, E]; key, value: [B, G, S, E], H a multiple of G. document_lengths: of the one row's documents;
    None: each of the B rows is one. In a compiled graph their borders, cu_seq_lens_q, stand for the lengths.
    ValueError for what this kernel does not do.
    """
    if attention_mask is not None or softcap is not None or s_aux is not None:
        raise ValueError(
            "attention by torch's SDPA takes no mask, caps no scores and has no sinks. Try: model.attention=eager"
        )
    if torch.compiler.is_compiling():
        assert not dropout and cu_seq_lens_q is not None, "see distft.models.compiled"
        return documents_attention(query, key, value, cu_seq_lens_q, scaling, sliding_window)[0], None
    lengths = [query.shape[2]] if document_lengths is None else list(document_lengths)
    done = [
        _attend(*parts, dropout, scaling, sliding_window).transpose(1, 2)
        for parts in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return (torch.cat(done, 1) if len(done) > 1 else done[0]), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    mask = window_mask(query.shape[2], sliding_window, query.device)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
