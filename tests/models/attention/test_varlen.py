"""Torch's varlen kernel, which does not run here, is called as its documentation says (torch.nn.attention.varlen).

A recorder stands in its place, fails on any call outside of the contract, and computes the answer by SDPA: one with
the keywords of torch 2.13, and one with those of 2.11.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import varlen

from distft.compat.reach import parameters
from distft.models.attention.sdpa import documents_sdpa
from distft.models.attention.varlen import documents_varlen

LENGTHS = (5, 1, 9)


def check(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, longest: int) -> None:
    assert query.ndim == key.ndim == value.ndim == 3 and key.shape == value.shape, "[tokens, heads, size]"
    assert query.dtype in (torch.float16, torch.bfloat16) and query.dtype == key.dtype == value.dtype
    assert len(query) == len(key) == borders[-1] and borders[0] == 0 and borders.dtype == torch.int32
    lengths = borders.diff()
    assert (lengths > 0).all() and lengths.max() == longest and isinstance(longest, int)


def newer(calls: list[dict[str, Any]]) -> Any:
    def varlen_attn(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        num_splits: int | None = None,
    ) -> torch.Tensor:
        check(query, key, value, cu_seq_q, max_q)
        assert torch.equal(cu_seq_q, cu_seq_k) and max_q == max_k and window_size[1] == 0, "causal"
        assert enable_gqa == (query.shape[1] != key.shape[1]) and query.shape[1] % key.shape[1] == 0
        calls.append({"window": window_size, "splits": num_splits})
        q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
        window = None if window_size[0] == -1 else window_size[0] + 1
        lengths = cu_seq_q.diff().tolist()
        done, _ = documents_sdpa(
            torch.nn.Identity(), q, k, v, None, scaling=scale, sliding_window=window, document_lengths=lengths
        )
        return done[0]

    return varlen_attn


def older(calls: list[dict[str, Any]]) -> Any:
    def varlen_attn(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        assert query.shape == key.shape, "torch 2.11 has one key head for each query head"
        options: Any = {"scale": scale, "window_size": window_size}
        return newer(calls)(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options)

    return varlen_attn


KERNELS = [newer, older]


def made(batch: int = 1, length: int = sum(LENGTHS)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, heads, length, 8, generator=generator).bfloat16() for heads in (4, 2, 2)]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_documents_are_given_by_their_borders(kernel: Any, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(varlen, "varlen_attn", kernel(calls))
    borders = torch.tensor([0, 5, 6, 15], dtype=torch.int32)
    module = torch.nn.Identity()
    mine, _ = documents_varlen(
        module, *made(), None, scaling=0.3, sliding_window=window, cu_seq_lens_q=borders, max_length_q=9
    )
    expected, _ = documents_sdpa(module, *made(), None, scaling=0.3, sliding_window=window, document_lengths=LENGTHS)
    assert torch.equal(mine, expected) and mine.shape == (1, 15, 4, 8)
    assert calls == [
        {"window": (-1, 0) if window is None else (window - 1, 0), "splits": 1 if kernel is newer else None}
    ]


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_a_batch_are_documents(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", kernel([]))
    mine, _ = documents_varlen(torch.nn.Identity(), *made(3, 5), None)
    expected, _ = documents_sdpa(torch.nn.Identity(), *made(3, 5), None)
    assert torch.equal(mine, expected)


def test_the_installed_kernel_is_one_of_those_that_are_recorded() -> None:
    from torch.nn.attention.varlen import varlen_attn

    real = parameters(varlen_attn)
    assert parameters(older([])) <= real
    assert ("num_splits" in real) == ("enable_gqa" in real) == (parameters(newer([])) <= real)


@pytest.mark.parametrize("asked", [{"softcap": 30.0}, {"dropout": 0.1}, {"s_aux": torch.zeros(4)}])
def test_unsupported_options_of_the_kernel_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Try: model.attention=auto"):
        documents_varlen(torch.nn.Identity(), *made(), None, **asked)


@pytest.mark.parametrize("asked", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}])
def test_sdpa_refuses_options_it_would_ignore(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Try: model.attention=eager"):
        documents_sdpa(SimpleNamespace(), *made(), None, **asked)  # pyright: ignore[reportArgumentType]


def test_attention_dropout_is_applied() -> None:
    torch.manual_seed(0)
    dropped, _ = documents_sdpa(torch.nn.Identity(), *made(), None, dropout=0.5, document_lengths=LENGTHS)
    kept, _ = documents_sdpa(torch.nn.Identity(), *made(), None, document_lengths=LENGTHS)
    assert not torch.equal(dropped, kept) and F.mse_loss(dropped.float(), kept.float()) > 0
