"""Which models distft takes, told from a folder's files, or from the facts in conf/model, by name.

The classes that transformers has are read out of its source: importing it takes seconds.
"""

import ast
import importlib.util
import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from distft.config.nearest import did_you_mean, nearest
from distft.paths import absolute

_WEIGHTS_IN_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_num_experts")
_OTHER_SENSES = ("vision_config", "audio_config")


def wrong_models(values: Mapping[str, Any], wrong: Collection[str]) -> Iterator[str]:
    """Yields what is wrong with the model of a config: its folder when it is here, else the facts of conf/model."""
    if {"model.path", "model.tiny", "model.trust_remote_code"} & set(wrong):
        return
    model = values["model"]
    folder = absolute(model["path"])
    if not model["tiny"] and folder.is_dir():
        yield from wrong_model(folder, trust_remote_code=model["trust_remote_code"])
    else:
        yield from (f"model.architecture: {reason}" for reason in wrong_architecture(model["architecture"]))


def wrong_model(folder: Path, *, trust_remote_code: bool = False) -> Iterator[str]:
    """Yields what keeps the model in `folder` from being trained; each message starts with model.path."""
    if not (folder / "config.json").is_file():
        yield f"model.path={folder}: is no model's folder, config.json is missing.{did_you_mean(_model_beside(folder))}"
        return
    try:
        facts = json.loads((folder / "config.json").read_text())
    except (ValueError, RecursionError) as error:
        yield f"model.path={folder}: config.json cannot be read: {error}. Nearest: fetch the folder again"
        return
    for reason in wrong_architecture(facts, trust_remote_code=trust_remote_code):
        yield f"model.path={folder}: {reason}"
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in _WEIGHTS_IN_PICKLES for file in folder.glob(pattern))
        found = f"{pickles[0]} is a pickle, which can run code" if pickles else "there are none"
        yield f"model.path={folder}: weights are read from *.safetensors and {found}. Nearest: save_pretrained(folder)"


def wrong_architecture(facts: Mapping[str, Any], *, trust_remote_code: bool = False) -> Iterator[str]:
    """Yields what keeps an architecture from being trained, by its name."""
    kind = str(facts.get("model_type"))
    experts = [name for name in _EXPERTS if isinstance(facts.get(name), int) and facts[name] > 1]
    if experts:
        yield (
            f"{kind} is a mixture of experts ({experts[0]}={facts[experts[0]]}), and its auxiliary loss is not proven "
            "here yet. Nearest: a dense model, e.g. model=qwen3_8b"
        )
    if senses := [name for name in _OTHER_SENSES if name in facts]:
        yield f"{kind} has more than text ({senses[0]}). Nearest: a folder with its text part alone, e.g. gemma3_text"
    names = causal_lm_types()
    if names and kind not in names and not senses:
        if "auto_map" in facts and not trust_remote_code:
            yield f"{kind} needs code out of the model's folder. Nearest: a model that transformers itself has"
        else:
            meant = nearest(kind, names) if len(kind) > 2 else None
            yield f"{kind} is no causal language model that transformers has. Nearest: {meant or 'llama'}"


@cache
def causal_lm_types() -> frozenset[str]:
    """Returns the model types that AutoModelForCausalLM takes; empty without transformers here."""
    spec = importlib.util.find_spec("transformers")
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py" if spec and spec.origin else None
    if source is None or not source.is_file():
        return frozenset()
    for node in ast.parse(source.read_text()).body:
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES":
            continue
        if isinstance(node.value, ast.Call) and isinstance(node.value.args[0], ast.List):
            pairs = [pair.elts[0] for pair in node.value.args[0].elts if isinstance(pair, ast.Tuple)]
            return frozenset(str(name.value) for name in pairs if isinstance(name, ast.Constant))
    return frozenset()


def _model_beside(folder: Path) -> str | None:
    """Returns a folder inside or beside that is a model's."""
    for place in (folder, folder.parent):
        found = sorted(path.parent for path in place.glob("*/config.json"))
        if found:
            near = nearest(folder.name, [path.name for path in found])
            return str(place / near) if near else str(found[0]) if place == folder and len(found) == 1 else None
    return None
