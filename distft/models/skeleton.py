"""A causal language model without its weights: every parameter on the meta device, every buffer real.

No process needs memory for a model before a strategy has cut it. Buffers (rotary frequencies, embedding scales) are
computed as the model's own code does it, since nothing restores them later: they are in no file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from distft.compat.transformers import repeated_layers, without_drawing
from distft.models.attention.choose import anywhere, check_separable, choose, require_borders
from distft.models.head import make_foldable


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
