"""Activations that are computed again in the backward pass instead of being kept, for each repeated layer.

`full` keeps a layer's input alone and runs its forward once more: a third more operations in a step. `selective` keeps
what is expensive to compute, the results of matrix products and of attention, and computes what lies between them
again: norms, rotary embeddings, activation functions. No product is done twice (Korthikanti et al. 2022,
arXiv 2205.05198).

Trap: the checkpoint goes around a layer's forward, inside everything that is hooked to the layer. Around the call, as
transformers 5.17 has it, the hooks of FSDP2 run again in the backward pass, and torch's policy meets a compiled layer
from outside and raises: "Tensor cached during selective activation checkpoint has been mutated".
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from distft.models.skeleton import blocks

RECOMPUTED = ("none", "selective", "full")  # what is computed again
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_ATTENTION = ("attention", "attn")  # in the name of every kernel: torch's own, varlen, flash-attn's, flex


def recompute(model: PreTrainedModel, what: str) -> None:
    """Has every repeated layer of `model` compute `what`, one of RECOMPUTED, again in the backward pass.

    Call it before the layers are compiled: the compiler sees the policy, and decides by itself with `none`.
    """
    if what == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if what == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks(model).values():
        block.forward = _checkpointed(block, block.forward, options)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    def checkpointed(*inputs: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs, **named)
        # a closure: torch 2.11 would make another graph for each number of documents in a partial's keywords
        return checkpoint(lambda *again: forward(*again, **named), *inputs, **options)

    return checkpointed


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if _is_expensive(operation) else CheckpointPolicy.PREFER_RECOMPUTE


def _is_expensive(operation: Any) -> bool:
    name = operation.name().rpartition("::")[2].partition(".")[0]
    return name in _PRODUCTS or any(word in name for word in _ATTENTION)
