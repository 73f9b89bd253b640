"""Dropout settings of an architecture, by the names of its config.json: what `model.dropout` may set.

They are read out of transformers' source, because importing it takes seconds.
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from distft.config.errors import did_you_mean, nearest
from distft.config.model_folder import facts_of, text_facts
from distft.paths import absolute

_FIELD = re.compile(r"^    (?:    )?(\w*(?:dropout|pdrop)\w*)\s*(?::[^=\n]+)?=", re.MULTILINE)
DROPOUT = re.compile(r"dropout|pdrop")  # in the name of a setting


def wrong_dropout(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields why model.dropout does not fit the model of a config, where its architecture is known already."""
    model = values["model"]
    wanted = model.get("dropout")
    if wanted is None:
        return
    folder = absolute(model["path"])
    facts = model["architecture"] if model["tiny"] or not folder.is_dir() else facts_of(folder)
    if message := refused(wanted, text_facts(facts)):
        yield message


def refused(wanted: float | Mapping[str, float], facts: Mapping[str, Any]) -> str | None:
    """Returns why an architecture does not have the wanted dropout; None when it has, or is not known here.

    facts: of its config.json, at least `model_type`.
    """
    kind = str(facts.get("model_type", ""))
    names = settings_of(kind)
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
def settings_of(kind: str) -> tuple[str, ...] | None:
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
                return tuple(dict.fromkeys(_FIELD.findall(_class_of(kind, text))))
    return None


def _class_of(kind: str, text: str) -> str:
    """Returns the source of the config class with this model type."""
    classes = re.split(r"^(?=class )", text, flags=re.MULTILINE)
    return next(part for part in classes if re.search(rf"model_type\s*=\s*[\"']{re.escape(kind)}[\"']", part))
