"""Holds every value of a composed config against its key: type, range, words, required ones."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from distft.config.known import Known
from distft.config.nearest import nearest
from distft.config.schema import KEYS, NULL, TARGET_GROUPS, Key
from distft.config.tree import MISSING, at, leaves

NOTHING = ("", "none", "null", "nil", "undefined")  # typed by those who mean null
_OWN_NOTHING = {"data.chat_template": "none"}  # a word of its own there
ALWAYS = [key.path for key in KEYS if key.path.partition(".")[0] not in TARGET_GROUPS]


def wrong_values(
    tree: Mapping[str, Any], known: Known, defaults: Mapping[str, Any], given: Collection[str]
) -> dict[str, str]:
    """Returns key -> error for everything in `tree` that stands at no key or does not fit it, and for what is missing.

    defaults: the tree without the user's own values; the last resort for a nearest valid choice.
    given: keys that the user set; a key that comes from a YAML but not with this target can only be left out.
    """
    errors = {}
    whole = [path for path, key in known.keys.items() if dict in key.types and not _has_inner(path, known)]
    present = dict(leaves(tree, whole))
    for path, value in present.items():
        key = known.key(path)
        if refusal := known.refusal(path):
            errors[path] = f"{path}={shown(value)}: {refusal if path in given else f'is no key. Nearest: ~{path}'}"
        elif isinstance(value, str) and value == MISSING:
            errors[path] = f"{path} is missing: {key.help if key else 'a value'}. Nearest: {path}=..."
        elif key and (said := _is_nothing(key, value, at(defaults, path))):
            errors[path] = said
        elif key and key.types and not key.fits(value):
            near = _nearest(key, value, at(defaults, path))
            errors[path] = f"{path}={shown(value)} is not {key.rule()}{f'. Nearest: {near}' if near else ''}"
    for path in (*ALWAYS, *known.required):
        if at(tree, path, MISSING) == MISSING and path not in errors:
            errors[path] = f"{path} is missing. Nearest: {path}=..."
    return errors


def _is_nothing(key: Key, value: Any, default: Any) -> str | None:
    """Returns what to say of a word that stands for no value and would be taken for text: a run or file named so."""
    is_word = isinstance(value, str) and value.strip().casefold() in NOTHING
    if not is_word or not key.types or value in (*key.choices, _OWN_NOTHING.get(key.path)):
        return None
    if NULL in key.types:
        return f"{key.path}={value} is {'text' if value.strip() else 'empty'}. Did you mean {key.path}=null?"
    if str not in key.types or key.choices:
        return None  # told by its rule
    offered = f"{key.path}={shown(default)}" if default not in (None, MISSING, "") else f"{key.path}=..."
    return f"{key.path}={value} says nothing, and a value is needed. Try: {offered}"


def _has_inner(path: str, known: Known) -> bool:
    return any(other.startswith(f"{path}.") for other in known.keys)


def shown(value: Any) -> str:
    """Returns a value as the user would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _nearest(key: Key, value: Any, default: Any) -> str:
    """Returns a value that the user may have meant; nothing when the rule says as much."""
    number = _number(value)
    if number is not None:
        ends = [
            end for end in (key.at_least, key.at_most) if end is not None and (number < end) == (end == key.at_least)
        ]
        for candidate in [round(number), number, *map(_whole, ends)]:
            if key.fits(candidate):
                return shown(candidate)
    if key.choices:
        return nearest(str(value), key.choices) or ", ".join(key.choices)
    if list in key.types and isinstance(value, str):
        return f"[{value}]"
    if bool in key.types:
        return shown(str(value).lower() in ("1", "yes", "on", "y", "t"))
    if default is None:
        return ""
    return shown(default) if key.fits(default) and default != MISSING else f"{key.path}=..."


def _number(value: Any) -> float | None:
    """Returns the finite number that a value is or reads like."""
    try:
        number = float(str(value).replace("_", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number
