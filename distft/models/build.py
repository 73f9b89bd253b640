"""A model built on meta: skeleton, head, fused kernels, recomputation and compilation of its blocks.

A loss has to run inside the layer's own forward: only there have all strategies put the whole weight together.

No process needs memory for a model before a strategy has cut it. Buffers (rotary frequencies, embedding scales) are
computed as the model's own code does it, since nothing restores them later: they are in no file.

`full` keeps a layer's input alone and runs its forward once more: a third more operations in a step. `selective` keeps
what is expensive to compute, the results of matrix products and of attention, and computes what lies between them
again: norms, rotary embeddings, activation functions. No product is done twice (Korthikanti et al. 2022,
arXiv 2205.05198).

Trap: the checkpoint goes around a layer's forward, inside everything that is hooked to the layer. Around the call, as
transformers 5.17 has it, the hooks of FSDP2 run again in the backward pass, and torch's policy meets a compiled layer
from outside and raises: "Tensor cached during selective activation checkpoint has been mutated".

Only what a layer computes is compiled. What a strategy hooks around it, to gather its weights and to hand on its
gradients, stays as it is, and so does the head.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from distft.compat import liger
from distft.compat.compiler import compiled
from distft.compat.transformers import attention_of, repeated_layers, without_drawing
from distft.data.shards import Rows
from distft.models.attention.choose import (
    SDPA,
    Attention,
    Documents,
    Machine,
    Traits,
    anywhere,
    check_separable,
    choose,
    dropout_of,
    in_force,
    require_borders,
)
from distft.run import Plan
from distft.runtime.device import compute_dtype
from distft.runtime.process_group import World

Fold = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Any]  # of hidden states, weight [V, H], bias [V]


class Head(nn.Linear):
    """A linear layer that, given `fold`, returns what it makes of the hidden states and the layer's weight."""

    def forward(self, input: torch.Tensor, fold: Fold | None = None) -> Any:
        return super().forward(input) if fold is None else fold(input, self.weight, self.bias)


def make_foldable(model: PreTrainedModel) -> None:
    """Makes the model's head a Head, with the names, weights and hooks it has; ValueError when it is not linear."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ValueError(f"{type(model).__name__} ends in a {type(head).__name__}; only linear heads are supported")
    head.__class__ = Head


def architecture(model_dir: Path | None, tiny: dict[str, Any]) -> PreTrainedConfig:
    """Returns the config of the model in `model_dir`, or the one that `tiny` describes when there is no folder."""
    if model_dir is None:
        return AutoConfig.for_model(**tiny)
    config = AutoConfig.from_pretrained(model_dir)
    vars(config).pop("quantization_config", None)  # left behind: quantised weights are refused (models.weight_files)
    return config


def skeleton(config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    """Builds the model on meta with tied weights tied; RuntimeError when a buffer's values are lost on meta.

    attention: `model.attention`'s word; auto: the kernel that every machine has, since here nobody knows the machine.
    ValueError for a model that cannot keep documents of a row apart.
    """
    check_separable(config)
    kernel = choose(anywhere(config) if attention == "auto" else attention)
    with init_empty_weights(include_buffers=False), without_drawing():  # drawing into nothing takes its time
        model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel, dtype=torch.float32)
    require_borders(model)
    make_foldable(model)
    model.tie_weights()
    lost = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if lost:
        raise RuntimeError(f"{config.model_type}: buffer {lost[0]} has no values before weights are loaded")
    return model


def blocks(model: PreTrainedModel) -> Mapping[str, nn.Module]:
    """Returns the repeated layers by name, the units that are sharded, gathered and checkpointed one at a time."""
    names = repeated_layers(model)
    found = {name: module for name, module in model.named_modules() if type(module).__name__ in names}
    if not found:
        raise RuntimeError(f"{type(model).__name__} does not name its repeated layers (_no_split_modules is empty)")
    return found


def use_kernels(model: PreTrainedModel, word: str) -> None:
    """Puts the kernels of that name, none or liger, into the model.

    ValueError when they are not installed, or have nothing for this model: nothing takes their place.
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
    """Returns class -> number of the live model's layers that compute by such a kernel."""
    found: dict[str, int] = {}
    for module in model.modules():
        if liger.is_in(module):
            found[type(module).__name__] = found.get(type(module).__name__, 0) + 1
    return found


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


Values = dict[str, Any]


def with_attention(config: Values, plan: Plan, world: World) -> tuple[Values, Attention]:
    """Returns the config with the name of the kernel that is in force here, and how it was chosen."""
    rows = Rows(plan.rows_dir, "train", config["data"]["shards"])
    attention = in_force(
        config["model"]["attention"],
        Machine.of(world.device, compute_dtype(config["train"]["precision"], world.device)),
        Documents.of(rows.lengths, plan.micro_batch_size, plan.micro_batch_tokens),
        Traits.of(model_config(config, plan)),
        compiled=config["train"]["compile"],
    )
    return config | {"model": config["model"] | {"attention": attention.in_force}}, attention


def model_config(config: Values, plan: Plan) -> Any:
    """Returns transformers' config of the model, from its folder or, for a random instance, from the run's config."""
    settings = config["model"]
    model_dir = Path(plan.model_dir) if plan.model_dir else None
    return architecture(model_dir, settings["architecture"] | settings["tiny_architecture"])
