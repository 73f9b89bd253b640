"""Repeated layers compiled by torch.compile: one graph without a break, that all layers of a kind share.

Only what a layer computes is compiled. What a strategy hooks around it, to gather its weights and to hand on its
gradients, stays as it is, and so does the head.
"""

import os
from collections.abc import Callable, Iterable
from functools import wraps
from shutil import which
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as symbolic_shapes
from transformers import PreTrainedModel

from distft.models.attention.choose import SDPA

_NOT_FOR_GRAPHS = ("document_lengths",)  # as many as there are documents: every other number would be another graph
_DROPOUT = ("attention_dropout", "attn_pdrop")  # of attention, in the configs of transformers


def compile_blocks(model: PreTrainedModel, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Has the forward of each block compiled at its first call; torch's own error where that would break the graph.

    On a CPU micro-batches differ in length, so the graph is made for any; on accelerators they have one.
    ValueError for attention that is no single operation there, and on a machine without a compiler.
    """
    check_compilable(model, device)
    symbolic_shapes.use_duck_shape = False  # else a row as long as a hidden state is wide is one graph, for it alone
    for block in blocks:
        block.forward = _without_lists(
            torch.compile(block.forward, fullgraph=True, dynamic=True if device.type == "cpu" else None)
        )


def check_compilable(model: PreTrainedModel, device: torch.device) -> None:
    """Raises ValueError where torch.compile would fail, or make another graph for every micro-batch."""
    if model.config._attn_implementation == SDPA:
        if device.type != "cpu":
            raise ValueError("model.attention=sdpa is compiled on CPUs alone. Nearest: model.attention=varlen")
        name = next((name for name in _DROPOUT if getattr(model.config.get_text_config(), name, 0)), None)
        if name:
            raise ValueError(
                f"compiled attention by SDPA has no dropout, and the model's {name} is not 0. "
                f"Nearest: train.compile=false"
            )
    compiler = os.environ.get("CXX", "g++")
    if which(compiler) is None:
        raise ValueError(
            f"train.compile=true needs a C++ compiler, and {compiler} is not here. Nearest: train.compile=false"
        )


def _without_lists(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def call(*args: Any, **given: Any) -> Any:
        return forward(*args, **{key: value for key, value in given.items() if key not in _NOT_FOR_GRAPHS})

    return call
