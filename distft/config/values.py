"""Holds every value of a composed config against its key: type, range, words, required ones."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from distft.config.known import Known
from distft.config.nearest import did_you_mean, nearest
from distft.config.schema import KEYS, NULL, TARGET_GROUPS, Key
from distft.config.tree import MISSING, at, leaves

NOTHING = ("", "none", "null", "nil", "undefined")  # typed by those who mean null
_OWN_NOTHING = {"data.chat_template": "none"}  # a word of its own there
_BOOLS = dict.fromkeys(("1", "yes", "on", "y", "t"), True) | dict.fromkeys(("0", "no", "off", "n", "f"), False)
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
            errors[path] = f"{path}={shown(value)}: {refusal if path in given else f'is not a key. Try: ~{path}'}"
        elif isinstance(value, str) and value == MISSING:
            errors[path] = f"{path} is missing: {key.help if key else 'a value'}. Try: {path}=..."
        elif key and (said := _is_nothing(key, value, at(defaults, path))):
            errors[path] = said
        elif key and key.types and not key.fits(value):
            errors[path] = f"{path}={shown(value)} is not {key.rule()}.{_hint(key, value, at(defaults, path))}"
    for path in (*ALWAYS, *known.required):
        if at(tree, path, MISSING) == MISSING and path not in errors:
            errors[path] = f"{path} is missing. Try: {path}=..."
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


def _hint(key: Key, value: Any, default: Any) -> str:
    """Returns the end of an error: the valid value that the user may have meant, else the default if there is one."""
    number = _number(value)
    if number is not None:
        ends = [
            end for end in (key.at_least, key.at_most) if end is not None and (number < end) == (end == key.at_least)
        ]
        for candidate in [round(number), number, *map(_whole, ends)]:
            if key.fits(candidate):
                return did_you_mean(shown(candidate))
    if bool in key.types and (said := str(value).lower()) in _BOOLS:
        return did_you_mean(shown(_BOOLS[said]))
    if NULL in key.types and str(value).lower() in ("", "none", "nil", "no", "off", "false"):
        return did_you_mean("null")
    if key.choices and (near := nearest(str(value), key.choices)):
        return did_you_mean(near)
    if list in key.types and isinstance(value, str):
        return f" Try: {key.path}=[{value}]"
    if default == MISSING:
        return f" Try: {key.path}=..."
    known = key.fits(default) and default is not None
    return f" The default is {shown(default)}." if known else ""


def _number(value: Any) -> float | None:
    """Returns the finite number that a value is or reads like."""
    try:
        number = float(str(value).replace("_", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number
