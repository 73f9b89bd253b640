"""Which models distft takes and their dropout settings, read from a folder's files, or by name from conf/model.

The classes and settings that transformers has are read out of its source: importing it takes seconds.
"""

import ast
import importlib.util
import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from distft.compat.reach import version_of
from distft.config.errors import did_you_mean, nearest
from distft.paths import absolute
from distft.tasks import Task, load_task
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.tasks.labels import Labels

_WEIGHTS_IN_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_num_experts")
_OTHER_SENSES = ("vision_config", "audio_config")
_POINTER = b"version https://git-lfs.github.com/spec/"
_TRY_DECODER = "Try: a decoder, e.g. model=smollm2_135m"


def wrong_models(model: Mapping[str, Any], wrong: Collection[str]) -> Iterator[str]:
    """Yields what is wrong with the model of a config: its folder when it is here, else the facts of conf/model.

    model: the section. wrong: keys of the config whose values are refused already.
    """
    if {"model.path", "model.tiny", "model.task", "model.trust_remote_code"} & set(wrong):
        return
    path = absolute(model["path"])
    if not model["tiny"] and path.is_dir():
        yield from wrong_model(path, trust_remote_code=model["trust_remote_code"], task=load_task(model["task"]))
    elif not model["tiny"] and path.exists():
        yield f"model.path={path}: is a file, and a model is a folder with a config.json. Try: model.path={path.parent}"
    else:
        found = wrong_architecture(model["architecture"], task=load_task(model["task"]))
        yield from (f"model.architecture: {reason}" for reason in found)


def wrong_model(folder: Path, *, trust_remote_code: bool = False, task: Task = CAUSAL_LM) -> Iterator[str]:
    """Yields what keeps the model in `folder` from being trained; each message starts with model.path."""
    if pointers := sorted(file.name for file in folder.iterdir() if _is_pointer(file)):
        more = f" and {len(pointers) - 1} more" if len(pointers) > 1 else ""
        yield (
            f"model.path={folder}: {pointers[0]}{more} is a git-LFS pointer in place of the file. "
            f"Try: cd {folder} && git lfs pull"
        )
        return
    is_adapter = (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors*"))
    if is_adapter or not (folder / "config.json").is_file():
        yield f"model.path={folder}: {_adapter(folder) if is_adapter else _not_a_model(folder)}"
        return
    try:
        facts = json.loads((folder / "config.json").read_text())
    except (ValueError, RecursionError) as error:
        yield f"model.path={folder}: config.json cannot be read: {error}. Try: fetch the folder again"
        return
    if not isinstance(facts, dict) or not isinstance(facts.get("model_type"), str):
        yield f"model.path={folder}: config.json names no model_type. Try: fetch the folder again"
        return
    for reason in wrong_architecture(facts, trust_remote_code=trust_remote_code, task=task):
        yield f"model.path={folder}: {reason}"
    if not any(folder.glob("*.safetensors*")):
        yield f"model.path={folder}: weights are read from *.safetensors and {_other_weights(folder)}"


def facts_of(folder: Path) -> Mapping[str, Any]:
    """Returns what config.json says; nothing where it is not there or no JSON object, which wrong_model reports."""
    try:
        facts = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def text_facts(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of config.json that describes the language model."""
    inner = facts.get("text_config")
    return inner if isinstance(inner, dict) else facts


def task_of(facts: Mapping[str, Any]) -> tuple[str, Labels | None]:
    """Returns the task of a saved model and the labels of its head; the labels are None for a model of text.

    transformers writes neither what a head without names and problem_type was trained on, nor `LABEL_0` where classes
    had no names: one output is a reward model's, and classes without names are numbers.
    """
    classes = " ".join(facts.get("architectures") or ())
    if "ForSequenceClassification" not in classes and "ForTokenClassification" not in classes:
        return CAUSAL_LM.name, None
    names = {int(number): str(name) for number, name in (facts.get("id2label") or {}).items()}
    count = len(names) or int(facts.get("num_labels", 2))
    named = tuple(re.sub(r"^LABEL_(?=\d+$)", "", names.get(number, str(number))) for number in range(count))
    if "ForTokenClassification" in classes:
        return "token_classification", Labels("single_label_classification", count, named)
    kind = facts.get("problem_type")
    if kind == "regression":
        return "regression", Labels(kind, count)
    if count == 1 and kind is None:
        return "reward_model", None
    kind = "single_label_classification" if kind is None else kind
    return "sequence_classification", Labels(kind, count, named)


def quantization(facts: Mapping[str, Any]) -> str | None:
    """Returns the name of the method that config.json says the weights are quantised by; None where it says nothing."""
    settings = facts.get("quantization_config")
    return str(settings.get("quant_method", "quantization")) if isinstance(settings, dict) else None


def _is_pointer(file: Path) -> bool:
    """Returns whether a file is what git has in place of a large one."""
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER


def _adapter(folder: Path) -> str:
    """Returns which model an adapter is of, and how to go on from it."""
    try:
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    except (ValueError, RecursionError, KeyError, TypeError):
        base = None
    merge = f"AutoPeftModelForCausalLM.from_pretrained('{folder}').merge_and_unload().save_pretrained('MERGED')"
    return (
        f"is an adapter to {base or 'a model that it does not name'}, not a model. "
        f"Try: model.path={base or 'BASE'} for a new adapter. To go on from this one, put it into its model and train "
        "that: python -m distft.export run=RUN out=MERGED format=merged for one that distft trained, else "
        f'python -c "from peft import AutoPeftModelForCausalLM; {merge}", with the tokenizer copied next to it'
    )


def _not_a_model(folder: Path) -> str:
    """Returns what a folder without config.json is, and what to do."""
    if files := sorted(file.name for file in folder.glob("*.gguf")):
        return f"config.json is missing; {files[0]} is quantised for inference. Try: the folder that it was made from"
    what = "is no model's folder" if any(folder.iterdir()) else "is an empty folder"
    return f"{what}, config.json is missing.{did_you_mean(_model_beside(folder))}"


def _other_weights(folder: Path) -> str:
    """Returns what a folder without safetensors files holds instead, and what to do."""
    pickles = sorted(file.name for pattern in _WEIGHTS_IN_PICKLES for file in folder.glob(pattern))
    if pickles:
        return f"{pickles[0]} is a pickle, which can run code. Try: save_pretrained(folder)"
    if files := sorted(file.name for file in folder.glob("*.gguf")):
        return f"{files[0]} is quantised for inference. Try: the folder that it was made from"
    return "there are none. Try: fetch the folder again"


def wrong_architecture(
    facts: Mapping[str, Any], *, trust_remote_code: bool = False, task: Task = CAUSAL_LM
) -> Iterator[str]:
    """Yields what keeps an architecture from being trained for a task, by its name."""
    kind = str(facts.get("model_type"))
    experts = [name for name in _EXPERTS if isinstance(facts.get(name), int) and facts[name] > 1]
    if experts:
        yield (
            f"{kind} is a mixture of experts ({experts[0]}={facts[experts[0]]}), and its auxiliary loss is not proven "
            "here yet. Try: a dense model, e.g. model=qwen3_8b"
        )
    if senses := [name for name in _OTHER_SENSES if name in facts]:
        yield (
            f"{kind} has more than text ({senses[0]}). Try: a folder with its text part alone; docs/models.md says "
            "how to make it"
        )
    names = model_types(task)
    if names and kind not in names and not senses:
        if "auto_map" in facts and not trust_remote_code:
            yield f"{kind} needs code out of the model's folder. Try: a model that transformers itself has"
        else:
            meant = nearest(kind, names) if len(kind) > 2 else None
            what = "causal language model" if task is CAUSAL_LM else f"model for {task.name}"
            yield (
                f"{kind} is no {what} that transformers {version_of('transformers') or ''} has. "
                f"Try: {meant or 'llama'}, or a newer transformers"
            )
    elif facts.get("is_encoder_decoder"):
        yield f"{kind} is an encoder with a decoder. {_TRY_DECODER}"
    elif task is not CAUSAL_LM:
        return
    elif kind in _model_types("MODEL_FOR_MASKED_LM_MAPPING_NAMES") and not facts.get("is_decoder"):
        yield f"{kind} is an encoder: a token sees those after it, so there is no next token to learn. {_TRY_DECODER}"


def causal_lm_types() -> frozenset[str]:
    """Returns the model types that AutoModelForCausalLM takes; empty without transformers here."""
    return model_types(CAUSAL_LM)


def model_types(task: Task) -> frozenset[str]:
    """Returns the model types that a task's Auto class takes; empty without transformers here."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", task.model_class.removeprefix("AutoModelFor")).upper()
    return _model_types(f"MODEL_FOR_{words}_MAPPING_NAMES")


@cache
def _model_types(mapping: str) -> frozenset[str]:
    """Returns the model types in one of transformers' tables; empty without transformers here."""
    spec = importlib.util.find_spec("transformers")
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py" if spec and spec.origin else None
    if source is None or not source.is_file():
        return frozenset()
    for node in ast.parse(source.read_text()).body:
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != mapping:
            continue
        if isinstance(node.value, ast.Call) and isinstance(node.value.args[0], ast.List):
            pairs = [pair.elts[0] for pair in node.value.args[0].elts if isinstance(pair, ast.Tuple)]
            return frozenset(str(name.value) for name in pairs if isinstance(name, ast.Constant))
    return frozenset()


def _model_beside(folder: Path) -> str | None:
    """Returns a folder inside it or next to it that is a model's."""
    for place in (folder, folder.parent):
        found = sorted(path.parent for path in place.glob("*/config.json"))
        if found:
            near = nearest(folder.name, [path.name for path in found])
            return str(place / near) if near else str(found[0]) if place == folder and len(found) == 1 else None
    return None


_DROPOUT_FIELD = re.compile(r"^    (?:    )?(\w*(?:dropout|pdrop)\w*)\s*(?::[^=\n]+)?=", re.MULTILINE)
DROPOUT = re.compile(r"dropout|pdrop")  # in the name of a setting


def wrong_dropout(model: Mapping[str, Any]) -> Iterator[str]:
    """Yields why model.dropout does not fit the model of a config, where its architecture is known already.

    model: the section.
    """
    wanted = model.get("dropout")
    if wanted is None:
        return
    folder = absolute(model["path"])
    facts = model["architecture"] if model["tiny"] or not folder.is_dir() else facts_of(folder)
    if message := refused_dropout(wanted, text_facts(facts)):
        yield message


def refused_dropout(wanted: float | Mapping[str, float], facts: Mapping[str, Any]) -> str | None:
    """Returns why an architecture does not have the wanted dropout; None when it has, or is not known here.

    facts: of its config.json, at least `model_type`.
    """
    kind = str(facts.get("model_type", ""))
    names = dropout_names(kind)
    if names is None:
        return None
    if not names:
        return f"model.dropout={wanted}: {kind} has no dropout. Try: train.neftune_alpha=5, or tuning.dropout"
    for name in wanted if isinstance(wanted, Mapping) else ():
        if name not in names:
            meant = did_you_mean(nearest(str(name), names))
            return f"model.dropout: {name} is not a dropout setting of {kind}. Allowed: {', '.join(names)}.{meant}"
    return None


@cache
def dropout_names(kind: str) -> tuple[str, ...] | None:
    """Returns the names of the dropout settings of a model type; None where transformers here does not have it."""
    spec = importlib.util.find_spec("transformers")
    models = Path(spec.origin).parent / "models" if spec and spec.origin else None
    if models is None or not kind:
        return None
    folders = {kind.replace("-", "_"), kind.split("_")[0], kind.rpartition("_")[0]} - {""}  # gemma3_text: gemma3
    for folder in sorted(folders, key=len, reverse=True):
        for file in sorted((models / folder).glob("configuration_*.py")):
            text = file.read_text(encoding="utf-8")
            if re.search(rf"model_type\s*=\s*[\"']{re.escape(kind)}[\"']", text):
                return tuple(dict.fromkeys(_DROPOUT_FIELD.findall(_config_class(kind, text))))
    return None


def _config_class(kind: str, text: str) -> str:
    """Returns the source of the config class with this model type."""
    classes = re.split(r"^(?=class )", text, flags=re.MULTILINE)
    return next(part for part in classes if re.search(rf"model_type\s*=\s*[\"']{re.escape(kind)}[\"']", part))
