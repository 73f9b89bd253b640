"""transformers: private attributes of models, weight renaming, and construction without initialization."""

from collections.abc import Callable
from typing import Any, cast

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights as no_init_weights

from distft.compat.reach import Reach

__all__ = [
    "attention_of",
    "class_for",
    "has_attention_interface",
    "init_weights",
    "no_init_weights",
    "renaming",
    "repeated_layers",
    "supports_sdpa",
]

_MODEL, _SEEN = "transformers.PreTrainedModel", "transformers 5.17 to 5.23"
REACHES = (
    Reach("transformers.initialization.no_init_weights", _SEEN, "initializing parameters on meta takes time"),
    Reach(f"{_MODEL}._no_split_modules", _SEEN, "names the classes of a model's repeated layers"),
    Reach(f"{_MODEL}._supports_attention_backend", _SEEN, "whether attention goes through the interface"),
    Reach(f"{_MODEL}._supports_sdpa", _SEEN, "whether attention is torch's SDPA"),
    Reach("transformers.PreTrainedConfig._attn_implementation", _SEEN, "the effective attention kernel"),
    Reach("transformers.conversion_mapping.get_model_conversion_mapping", _SEEN, "names of weights in older files"),
    Reach("transformers.core_model_loading.rename_source_key", _SEEN, "a weight's name in the model, by its name here"),
    Reach(f"{_MODEL}._init_weights", _SEEN, "a model's own initialization of one module", takes=("module",)),
    Reach("transformers.AutoModelForCausalLM._model_mapping", _SEEN, "the class for a config, without building it"),
    Reach(_MODEL, _SEEN, "its mark on an initialized module", holds=("_is_hf_initialized",)),
)


def repeated_layers(model: PreTrainedModel) -> set[str]:
    """Returns the names of the classes of the model's repeated layers; empty where it names none."""
    return set(model._no_split_modules or ())


def class_for(config: PreTrainedConfig, auto_class: str) -> type[PreTrainedModel] | None:
    """Returns the class that one of transformers' Auto classes has for a config; None where it has none."""
    found: Any = getattr(transformers, auto_class)
    return found._model_mapping.get(type(config), None)


def has_attention_interface(model: type[PreTrainedModel]) -> bool:
    """Returns whether models of a class use `AttentionInterface`."""
    return bool(model._supports_attention_backend)


def supports_sdpa(model: type[PreTrainedModel] | None) -> bool:
    """Returns whether the attention of a class is torch's SDPA; None: a class that transformers does not know."""
    return model is None or bool(model._supports_sdpa)


def attention_of(model: PreTrainedModel) -> str:
    """Returns the name of the model's attention kernel, as `AttentionInterface` knows it."""
    return cast(str, model.config._attn_implementation)


def init_weights(model: PreTrainedModel, module: nn.Module) -> None:
    """Initializes one module as the model's own code does, also where transformers has marked it as initialized."""
    vars(module)["_is_hf_initialized"] = False
    model._init_weights(module)


def renaming(model: PreTrainedModel) -> Callable[[str], str | None]:
    """Returns a function from a weight's name in a file to its name in the model, as in transformers' loader.

    It handles the base model's prefix and old names; it returns None for a weight that the loader would convert.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    own = model.state_dict()

    def name(stored: str) -> str | None:
        renamed, converted = rename_source_key(stored, renamings, converters, model.base_model_prefix, own)
        return renamed if converted is None else None

    return name
