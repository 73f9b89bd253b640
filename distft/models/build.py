"""Model construction on the meta device: architecture, fused kernels, activation checkpointing, compilation.

On meta no process needs memory for a model before a strategy has sharded it. Buffers (rotary frequencies, embedding
scales) are computed for real by the model's own code, because no file contains them.

A language model's loss runs inside the head's forward, because only there does every strategy provide the unsharded
weight.

Activation checkpointing: `full` keeps only a layer's input and reruns its forward, a third more operations per step.
`selective` keeps the results of matrix products and attention, and recomputes norms, rotary embeddings and activation
functions (Korthikanti et al. 2022, arXiv 2205.05198).

Trap: activation checkpointing wraps a layer's forward, inside its hooks. Around the whole call, as in transformers
5.17, the hooks of FSDP2 run again in the backward pass, and with a compiled layer torch's policy raises "Tensor cached
during selective activation checkpoint has been mutated".

Compilation covers a layer's forward alone, neither the head nor the hooks of a strategy that gather weights and reduce
gradients.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from distft.compat import liger
from distft.compat.compiler import compiled
from distft.compat.transformers import attention_of, no_init_weights, repeated_layers
from distft.models.attention.choose import SDPA, VARLEN, anywhere, check_separable, choose, dropout_of, require_borders
from distft.models.heads import check_head, make_foldable
from distft.run import Plan
from distft.tasks import Task
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.tasks.labels import Labels


def architecture(
    model_dir: str | Path | None, facts: Mapping[str, Any], labels: Labels | None = None
) -> PreTrainedConfig:
    """Returns transformers' config of the model in `model_dir`; without a folder, the one that `facts` describe.

    labels: of the rows, which the head's outputs are named after; None: a language model.
    """
    if model_dir is None:
        config = AutoConfig.for_model(**facts)
    else:
        config = AutoConfig.from_pretrained(model_dir)
        vars(config).pop("quantization_config", None)  # a leftover: weight_files refuses quantized weights
    if labels is not None:
        names = labels.names or [f"LABEL_{number}" for number in range(labels.count)]
        config.id2label = dict(enumerate(names))  # sets num_labels too
        config.label2id = {name: number for number, name in enumerate(names)}
        config.problem_type = labels.problem_type
    return config


def architecture_of(plan: Plan, facts: Mapping[str, Any]) -> PreTrainedConfig:
    """Returns transformers' config of a run's model, with the labels of its rows."""
    return architecture(plan.model_dir, facts, Labels.of(plan.labels))


def skeleton(config: PreTrainedConfig, attention: str, task: Task = CAUSAL_LM) -> PreTrainedModel:
    """Returns the model of a task on meta, with tied weights tied.

    attention: value of model.attention; auto: the kernel that runs on every machine.
    Raises ValueError for a model that cannot separate packed documents, RuntimeError when a buffer is on meta.
    """
    check_separable(config, task)
    kernel = choose(anywhere(config, task) if attention == "auto" else attention)
    auto_class = getattr(transformers, task.model_class)
    with init_empty_weights(include_buffers=False), no_init_weights():  # initializing meta tensors takes time
        model = auto_class.from_config(config, attn_implementation=kernel, dtype=torch.float32)
    require_borders(model)
    if model.get_output_embeddings() is not None:
        make_foldable(model)
    else:
        check_head(model)
    model.tie_weights()
    kernel = attention_of(model)
    if kernel not in _SEPARATES_ENCODERS and is_encoder(model):
        raise ValueError(
            f"model.attention={attention}: {type(model).__name__} attends in both directions, and this kernel does not "
            "separate its packed documents. Try: model.attention=auto"
        )
    lost = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if lost:
        raise RuntimeError(f"{config.model_type}: buffer {lost[0]} is on meta and has no values")
    return model


def is_encoder(model: PreTrainedModel) -> bool:
    """Returns whether tokens attend to later ones, by transformers' mark on attention layers."""
    marks = [bool(module.is_causal) for module in model.modules() if hasattr(module, "is_causal")]
    return bool(marks) and not any(marks)


def blocks(model: PreTrainedModel) -> Mapping[str, nn.Module]:
    """Returns name -> repeated layer: the units of sharding, gathering and activation checkpointing."""
    names = repeated_layers(model)
    found = {name: module for name, module in model.named_modules() if type(module).__name__ in names}
    if not names:  # as of DistilBERT: the layers of its longest list
        lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
        longest = max(lists, key=lambda name: len(lists[name]), default=None)
        found = {} if longest is None else {f"{longest}.{name}": each for name, each in lists[longest].named_children()}
    if not found:
        raise RuntimeError(f"{type(model).__name__} does not name its repeated layers (_no_split_modules is empty)")
    return found


def use_kernels(model: PreTrainedModel, word: str) -> None:
    """Replaces layers of the model by the fused kernels `word`, none or liger.

    Raises ValueError when they are not installed, or support no layer of this model: there is no fallback.
    """
    if word == "none":
        return
    if not liger.is_installed():
        raise ValueError("model.kernels=liger: liger-kernel is not installed. Try: pip install liger-kernel")
    liger.put_into(model)
    if not fused_layers(model):
        name = type(model).__name__
        raise ValueError(f"model.kernels=liger: Liger has no kernels for {name}. Try: model.kernels=none")


def fused_layers(model: nn.Module) -> dict[str, int]:
    """Returns class -> number of layers of the live model that use a fused kernel."""
    found: dict[str, int] = {}
    for module in model.modules():
        if liger.is_in(module):
            found[type(module).__name__] = found.get(type(module).__name__, 0) + 1
    return found


_SEPARATES_ENCODERS = (SDPA, VARLEN, "flash_attention_2", "flash_attention_3")  # by the lengths of the documents
RECOMPUTED = ("none", "selective", "full")  # values of train.activation_checkpointing
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_WIDER = 8  # times as wide as its inner dimension: the product costs little to compute again
_ATTENTION = ("attention", "attn")  # in the name of every kernel: SDPA, varlen, flash-attn, flex


def recompute(model: PreTrainedModel, what: str) -> None:
    """Enables activation checkpointing, `what` of RECOMPUTED, on every repeated layer of `model`.

    Call it before the layers are compiled, so that the compiler sees the policy; with `none` the compiler decides.
    """
    if what == "none":
        return
    is_selective = what == "selective"
    contexts = partial(create_selective_checkpoint_contexts, _policy) if is_selective else noop_context_fn
    for block in blocks(model).values():
        block.forward = _checkpointed(block, block.forward, contexts)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], contexts: Callable[[], Any]) -> Callable[..., Any]:
    def checkpointed(*inputs: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs, **named)
        # a closure: with a partial torch 2.11 recompiles for each number of documents in its keywords
        return checkpoint(lambda *again: forward(*again, **named), *inputs, use_reentrant=False, context_fn=contexts)

    return checkpointed


def _policy(_: Any, operation: Any, *inputs: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if _is_expensive(operation, inputs) else CheckpointPolicy.PREFER_RECOMPUTE


def _is_expensive(operation: Any, inputs: Sequence[Any]) -> bool:
    """Returns whether a result is kept: that of attention, and of a product unless it is much wider than its inner
    dimension, as of an adapter's second matrix, which would take as much memory as the frozen layer's result."""
    name = operation.name().rpartition("::")[2].partition(".")[0]
    if name in ("mm", "addmm"):
        right = inputs[-1]
        return _WIDER * right.shape[0] > right.shape[1]
    return name in _PRODUCTS or any(word in name for word in _ATTENTION)


def compile_blocks(model: PreTrainedModel, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Compiles the forward of each block at its first call; torch raises where the graph would break.

    On a CPU, micro-batches differ in length, so shapes are dynamic from the start; on accelerators, where lengths are
    multiples of a tile, from the second length on.
    Raises ValueError for attention that is not a single operation, and on a machine without a C++ compiler.
    """
    check_compilable(model, device)
    for block in blocks:
        block.forward = compiled(block.forward, dynamic=True if device.type == "cpu" else None)


def check_compilable(model: PreTrainedModel, device: torch.device) -> None:
    """Raises ValueError where torch.compile would fail, or recompile for every micro-batch."""
    if attention_of(model) == SDPA:
        if is_encoder(model):
            raise ValueError(f"{type(model).__name__} cannot be compiled: it is an encoder. Try: train.compile=false")
        if device.type != "cpu":
            raise ValueError("model.attention=sdpa can be compiled on CPUs only. Try: model.attention=varlen")
        name = dropout_of(model.config)
        if name:
            raise ValueError(
                f"compiled SDPA attention has no dropout, and the model's {name} is not 0. Try: train.compile=false"
            )
    compiler = os.environ.get("CXX", "g++")
    if which(compiler) is None:
        raise ValueError(
            f"train.compile=true needs a C++ compiler, and {compiler} is not installed. Try: train.compile=false"
        )
