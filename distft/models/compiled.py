"""Repeated layers compiled by torch.compile: one graph without a break, that all layers of a kind share.

Only what a layer computes is compiled. What a strategy hooks around it, to gather its weights and to hand on its
gradients, stays as it is, and so does the head.
"""

import os
from collections.abc import Iterable
from shutil import which

import torch
from torch import nn
from transformers import PreTrainedModel

from distft.compat.transformers import attention_of
from distft.models.attention.choose import SDPA, dropout_of
from distft.runtime.compiling import compiled


def compile_blocks(model: PreTrainedModel, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Has the forward of each block compiled at its first call; torch's own error where that would break the graph.

    On a CPU micro-batches differ in length, so the graph is made for any; on accelerators, where they are whole tiles,
    for any once a second length has come.
    ValueError for attention that is no single operation there, and on a machine without a compiler.
    """
    check_compilable(model, device)
    for block in blocks:
        block.forward = compiled(block.forward, dynamic=True if device.type == "cpu" else None)


def check_compilable(model: PreTrainedModel, device: torch.device) -> None:
    """Raises ValueError where torch.compile would fail, or make another graph for every micro-batch."""
    if attention_of(model) == SDPA:
        if device.type != "cpu":
            raise ValueError("model.attention=sdpa is compiled on CPUs alone. Try: model.attention=varlen")
        name = dropout_of(model.config)
        if name:
            raise ValueError(
                f"compiled attention by SDPA has no dropout, and the model's {name} is not 0. Try: train.compile=false"
            )
    compiler = os.environ.get("CXX", "g++")
    if which(compiler) is None:
        raise ValueError(
            f"train.compile=true needs a C++ compiler, and {compiler} is not here. Try: train.compile=false"
        )
