"""Check of a base model before a machine is requested: its class, its files, and measurements of a small instance.

The instance is random and has each kind of layer once, so the check takes seconds for any model size.
Trap: with the class's own initialization a wrong head or a leak between documents would change the loss by less than
rounding. So the weights are initialized with a larger spread, biases and norm scales included.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from distft.compat.transformers import no_init_weights
from distft.losses.cross_entropy import CrossEntropy
from distft.model_check.live import (
    LOGIT_TOLERANCE,
    Agreement,
    Forward,
    batch_of,
    changed,
    class_loss,
    measure,
    relative_difference,
    wrong_outputs,
)
from distft.model_check.verdict import Verdict
from distft.models.build import architecture, skeleton
from distft.models.heads import is_new
from distft.tasks import Task
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.tensors.safetensors import Stored, read_header, tensors_of
from distft.tensors.streaming import names_in_model
from distft.tensors.weight_files import NO_PARAMETER, headers, weight_files

LENGTHS = (9, 13, 6)  # tokens of the documents; longer than the sliding window of the small instance
MAX_WEIGHTS = 5_000_000  # of a measured instance
COMPARED_ROWS = 64  # of two tied weights
ADVICE = "Try: another model; docs/models.md lists what was measured"
_SIZES = {  # of the small instance, by the field names of transformers configs
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "attention_head_dim", "v_head_dim", "qk_nope_head_dim"), 16),
    **dict.fromkeys(("global_head_dim",), 16),
    **dict.fromkeys(("qk_rope_head_dim",), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 96),
    **dict.fromkeys(("sliding_window", "attention_window", "local_attention", "window_size"), 4),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 96),
    "hidden_size_per_layer_input": 16,
}
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_query_groups")


def check_folder(folder: Path, task: Task = CAUSAL_LM) -> Verdict:
    """Checks the model in `folder` for a task: its config, a small instance, and its weight files."""
    try:
        config = architecture(folder, {})
    except Exception as error:  # configs raise many types
        return {"wrong": [f"config.json cannot be used: {_shown(error)}. Try: fetch the folder again"], "notes": []}
    found, model = check_config(config) if task.labels == "none" else check_classifier(config, task)
    if model is not None and not found["wrong"]:
        found["wrong"], found["notes"] = tensor_errors(folder, model)
    return found


def check_config(config: PreTrainedConfig) -> tuple[Verdict, PreTrainedModel | None]:
    """Checks a config alone; returns the result and the model on meta, None where it cannot be built."""
    found: Verdict = {"type": config.model_type, "wrong": [], "notes": []}
    model = own = None
    try:
        instance = instance_of(config)
        own = own_instance(instance)
        later = future_leak(own)
    except Exception as error:  # no small instance exists, or the class needs more inputs than tokens
        instance, later, found["unmeasured"] = config, 0.0, _shown(error)
    try:
        if later > LOGIT_TOLERANCE:
            raise ValueError(
                f"{type(own).__name__} is an encoder: a token attends to later ones (one moved an earlier logit by "
                f"{later:.1e} of the largest), so it cannot learn to predict the next token"
            )
        model = skeleton(copy.deepcopy(config), "auto")
        if own is not None:
            agreement, unreached = measure_instance(own, instance)
            found |= cast(Verdict, asdict(agreement) | {"difference": agreement.difference})
            if reason := agreement.wrong():
                raise ValueError(reason)
            if unreached:
                more = f" and {len(unreached) - 1} more" if len(unreached) > 1 else ""
                raise ValueError(f"{agreement.name} has weights without a gradient on text: {unreached[0]}{more}")
    except (ValueError, RuntimeError) as error:
        found["wrong"] = [f"{_first_line(error)}. {ADVICE}"]
    except Exception as error:  # classes raise many types for an unknown attention
        found["wrong"] = [f"{config.model_type} cannot be built here: {_shown(error)}. {ADVICE}"]
    return found, model


def check_classifier(config: PreTrainedConfig, task: Task) -> tuple[Verdict, PreTrainedModel | None]:
    """Does the same for a task of labels: the outputs of packed documents are those of each alone, by its class."""
    found: Verdict = {"type": config.model_type, "wrong": [], "notes": []}
    model = None

    def on(model: PreTrainedModel) -> Forward:
        return lambda batch, objective: objective(model, batch)

    try:
        model = skeleton(copy.deepcopy(config), "auto", task)
        instance = small(config)
        own = _random(getattr(transformers, task.model_class).from_config(instance, attn_implementation="eager"))
        mine = skeleton(copy.deepcopy(instance), "auto", task)
        mine.load_state_dict(dict(own.named_parameters()), False, assign=True)
        text = instance.get_text_config()
        padding = getattr(text, "pad_token_id", None)  # the RoBERTa family gives it the position of no token
        documents = [np.where(ids == padding, (ids + 1) % text.vocab_size, ids) for ids in _documents(text.vocab_size)]
        mine.eval()
        if reason := wrong_outputs(mine, on(mine), on(own), documents):
            raise ValueError(reason)
    except (ValueError, RuntimeError) as error:
        found["wrong"] = [f"{_first_line(error)}. {ADVICE}"]
    except Exception as error:  # classes raise many types
        found["wrong"] = [f"{config.model_type} cannot be built here: {_shown(error)}. {ADVICE}"]
    return found, model


def instance_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """Returns the config of an instance of at most MAX_WEIGHTS weights; raises the class's error without one."""
    failure: Exception = RuntimeError(f"{config.model_type} has no small instance")
    for made in (config, small(config), small(config, every_layer=True)):
        try:
            with init_empty_weights(), no_init_weights():
                model = AutoModelForCausalLM.from_config(copy.deepcopy(made), attn_implementation="eager")
        except Exception as error:  # a class may need other sizes, or layers that depend on each other
            failure = error
            continue
        count = sum(parameter.numel() for parameter in model.parameters())
        if count <= MAX_WEIGHTS:
            return made
        failure = RuntimeError(f"its smallest instance has {count:,} weights")
    raise failure


@torch.no_grad()
def own_instance(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a random instance on the CPU in fp32 with eager attention; every weight affects the logits."""
    return _random(
        AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32)
    )


@torch.no_grad()
def _random(own: PreTrainedModel) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(0)
    for parameter in own.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.add_(noise, alpha=0.1)
        else:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return own.eval()


@torch.no_grad()
def future_leak(own: PreTrainedModel) -> float:
    """Returns the largest change of an earlier logit when the last token changes, relative; 0 for causal attention."""
    vocabulary = own.config.get_text_config().vocab_size
    ids = _documents(vocabulary)[0]
    last = np.concatenate([ids[:-1], changed(ids[-1:], vocabulary)])
    one, other = (class_loss(own, batch_of([each]))[1]["logits"][0, :-1] for each in (ids, last))
    return relative_difference(one, other)


def measure_instance(own: PreTrainedModel, config: PreTrainedConfig) -> tuple[Agreement, list[str]]:
    """Returns the agreement of distft's model with `own`, and the weights that get no gradient from a loss on text."""
    model = skeleton(copy.deepcopy(config), "auto")
    values = dict(own.named_parameters())
    model.load_state_dict({name: values[name].detach() for name, _ in model.named_parameters()}, False, assign=True)
    model.tie_weights()
    model.requires_grad_(True)
    model.eval()
    vocabulary = config.get_text_config().vocab_size
    documents, loss = _documents(vocabulary), CrossEntropy()

    def forward(model: PreTrainedModel) -> Forward:
        return lambda batch, objective: (objective or loss)(model, batch)

    agreement = measure(type(model).__name__, forward(model), forward(own), documents, vocabulary)
    loss(model, batch_of(documents))[0].backward()
    return agreement, [name for name, parameter in model.named_parameters() if parameter.grad is None]


def tensor_errors(folder: Path, model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """Returns (errors, remarks) of the files of `folder` compared with the model of its config.json."""
    shapes = {name: entry["shape"] for name, entry in headers(folder).items()}
    names = names_in_model(model, shapes)
    parameters = dict(model.named_parameters())
    wrong = [
        f"{name} is {shapes[name]} in the files and {list(parameters[own].shape)} by config.json. "
        "Try: the config.json that was saved with the files"
        for name, own in names.items()
        if shapes[name] != list(parameters[own].shape)
    ]
    missing = [name for name in parameters if name not in names.values() and not is_new(model, name)]
    head = f"{_name_of(model, model.get_output_embeddings())}.weight"
    if missing == [head]:
        wrong.append(
            f"{head} is not in the files, and config.json does not tie it to the embeddings (tie_word_embeddings). "
            'Try: "tie_word_embeddings": true in config.json, if the model shares them'
        )
    elif missing:
        wrong.append(
            f"{len(missing)} of {len(parameters)} weights of {type(model).__name__} are missing, {missing[0]} first. "
            f"The files have {len(shapes)}, such as {next(iter(shapes), 'none')}. Try: the whole model's folder"
        )
    wrong += _wrongly_tied(folder, model, shapes)
    known = {*names, *model.state_dict(), *(name for name, _ in model.named_buffers())}
    left = [name for name in shapes if name not in known and not name.endswith(NO_PARAMETER)]
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return wrong[:3], [f"ignored, since the model does not have it: {left[0]}{more}"] if left else []


def small(config: PreTrainedConfig, *, every_layer: bool = False) -> PreTrainedConfig:
    """Returns the config of an instance of some thousand weights, with one layer of each kind in `config`.

    every_layer: keep all layers; in some classes layers read the results of others.
    """
    made = copy.deepcopy(config)
    text = made.get_text_config()
    facts = text.to_dict()
    layers = next((name for name in _LAYERS if isinstance(facts.get(name), int)), None)
    heads = next((facts[name] for name in ("num_attention_heads", "n_head", "n_heads") if facts.get(name)), 0)
    changes: dict[str, int | list[int]] = {name: size for name, size in _SIZES.items() if _is_size(facts.get(name))}
    for name, size in _SIZES.items():
        if isinstance(facts.get(name), list):  # one per layer
            changes[name] = [size] * len(facts[name])
    for name in _KEY_HEADS:
        if _is_size(facts.get(name)):
            changes[name] = 4 if facts[name] == heads else min(2, facts[name])
    if layers and not every_layer:
        kept, lists = _kept_layers(facts, facts[layers])
        changes |= lists | {layers: len(kept)}
    for name, value in facts.items():
        if name.endswith("_token_id") and _is_size(value) and value >= changes.get("vocab_size", value + 1):
            changes[name] = 1
    if facts.get("qk_rope_head_dim"):
        changes |= {name: size for name, size in (("head_dim", 8), ("qk_head_dim", 24)) if name in facts}
    for name, value in changes.items():
        setattr(text, name, value)
    return made


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _kept_layers(facts: Mapping[str, Any], count: int) -> tuple[list[int], dict[str, list[Any]]]:
    """Returns the first layer of each kind, at least two in total, and the config's per-layer lists cut to these."""
    lists = {name: value for name, value in facts.items() if isinstance(value, list) and len(value) == count > 0}
    kinds = [str([value[i] for value in lists.values()]) for i in range(count)]
    kept = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    kept = sorted({*kept, *range(min(count, 2))}) if len(kept) < 2 else kept
    return kept, {name: [value[i] for i in kept] for name, value in lists.items()}


def _documents(vocabulary: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, vocabulary, length) for length in LENGTHS]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


def _name_of(model: PreTrainedModel, module: Any) -> str:
    return next((name for name, each in model.named_modules() if each is module), "lm_head")


def _wrongly_tied(folder: Path, model: PreTrainedModel, shapes: Mapping[str, Any]) -> list[str]:
    """Returns an error for each pair of weights that config.json ties and that differ in a sample of their rows."""
    own = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = [(first[own[name]], name) for name in shapes if name in own and first[own[name]] != name]
    files = {folder / name: read_header(folder / name) for name in weight_files(folder)} if pairs else {}
    stored = {name: each for file, header in files.items() for name, each in tensors_of(file, header).items()}
    wrong = []
    for one, other in pairs:
        if one in stored and shapes[one] == shapes[other] and _differ(stored[one], stored[other]):
            wrong.append(
                f"config.json ties {other} to {one}, and in the files they differ. "
                'Try: "tie_word_embeddings": false in config.json'
            )
    return wrong


def _differ(one: Stored, other: Stored) -> bool:
    rows, size = one.shape[0], one.count // one.shape[0]
    starts = [row * size for row in range(0, rows, max(1, rows // COMPARED_ROWS))]
    return any(not torch.equal(one.read(start, size), other.read(start, size)) for start in starts)
