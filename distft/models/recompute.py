"""Activations that are computed again in the backward pass instead of being kept, for each repeated layer.

`full` keeps a layer's input alone and runs its forward once more: a third more operations in a step. `selective` keeps
what is dear to compute, the results of matrix products and of attention, and computes what lies between them again:
norms, rotary embeddings, activation functions. No product is done twice (Korthikanti et al. 2022, arXiv 2205.05198).
"""

from functools import partial
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

RECOMPUTED = ("none", "selective", "full")  # what is computed again
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_ATTENTION = ("attention", "attn")  # in the name of every kernel: torch's own, varlen, flash-attn's, flex


def recompute(model: PreTrainedModel, what: str) -> None:
    """Has every repeated layer of `model` compute `what`, one of RECOMPUTED, again in the backward pass."""
    if what == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if what == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    model.activation_checkpointing_enable(options)


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if _is_dear(operation) else CheckpointPolicy.PREFER_RECOMPUTE


def _is_dear(operation: Any) -> bool:
    name = operation.name().rpartition("::")[2].partition(".")[0]
    return name in _PRODUCTS or any(word in name for word in _ATTENTION)
