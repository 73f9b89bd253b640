"""Splits what a user typed into key and value, and writes it the way Hydra reads it.

Trap: Hydra's grammar trips over plain paths (`~/a.jsonl`, `a(1).jsonl`, `s3://b?x=1`) and reads a bare comma as a
sweep and `name=2024` as a number, so values of text keys are quoted here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as ParsedOverride
from hydra.errors import HydraException

_OVERRIDE = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[^=\s+~]+)(?:=(?P<value>.*))?", re.DOTALL)
MULTIRUN = ("-m", "--multirun")
CONFIG = "config"  # names a YAML file of one's own
_HYDRA_FILES = ("--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp", "--config")
_PLAIN = re.compile(r"[\w./-]+(@[\w./-]+)?")


class WrongOverride(ValueError):
    """An override that cannot be read; the message says what to write instead."""


@dataclass(frozen=True)
class Override:
    """One `key=value` as typed; value None when there was no `=`."""

    text: str
    prefix: str
    key: str
    value: str | None
    data: Any = ...  # a value read from a YAML file; ...: `value` is to be read
    at: str = ""  # file:line of one out of a file


def split(text: str) -> Override:
    """Returns the parts of an override; WrongOverride when it has no key or no value."""
    if text.startswith("-"):
        name = text.partition("=")[0]
        if name in MULTIRUN:
            raise WrongOverride(f"{text}: sweeps are of launch and plan. Try: this command without it, one value a key")
        hint = f". Try: {CONFIG}=FILE.yaml, a config file of your own" if name in _HYDRA_FILES else ""
        raise WrongOverride(f"{text}: there are no options here but --help; settings are written key=value{hint}")
    match = _OVERRIDE.fullmatch(text)
    if match is None and text.endswith((".yaml", ".yml")):
        raise WrongOverride(f"{text}: is not of the form key=value. Try: {CONFIG}={text}")
    if match is None or not _PLAIN.fullmatch(match["key"]):
        raise WrongOverride(f"{text}: is not of the form key=value")
    if match["value"] is None and match["prefix"] != "~":
        if text.endswith((".yaml", ".yml")):
            raise WrongOverride(f"{text}: has no value. Try: {CONFIG}={text}")
        raise WrongOverride(f"{text}: has no value. Nearest: {match['key']}=...")
    return Override(text, match["prefix"] or "", match["key"], match["value"])


def is_key(text: str) -> bool:
    """Tells whether a text can be a dotted key."""
    return _PLAIN.fullmatch(text) is not None


def hydra_value(key: str, value: str, *, text: bool) -> str:
    """Returns `value` in Hydra's grammar, text quoted where needed; WrongOverride for a sweep.

    text: the key takes text, so `2024` and `true` are words.
    """
    value = value.strip()
    if value in ("", "null") or _is_quoted(value):
        return value or "''"
    if value.startswith("[") and value.endswith("]"):
        return "[" + ",".join(hydra_value(key, part, text=text) for part in _parts(value[1:-1])) + "]"
    if "," in value and not value.startswith("{") and not Path(value).expanduser().exists():
        raise WrongOverride(
            f"{key}={value}: a comma makes a sweep, which needs --multirun (launch, plan). "
            f"Nearest: {key}=[{value}] for a list, or {key}='{value}' in Hydra's quotes for one text"
        )
    if text or not _is_readable(key, value):
        return quoted(value)
    return value


def swept_value(key: str, value: str) -> str | None:
    """Returns the sweep that a value is, in Hydra's grammar, its parts quoted where needed; None when it is none."""
    value = value.strip()
    if _is_quoted(value) or Path(value).expanduser().exists():
        return None
    parts = list(_parts(value))
    if len(parts) > 1:
        return ",".join(hydra_value(key, part, text=False) for part in parts)
    parsed = _parsed(key, value)
    return value if parsed is not None and parsed.is_sweep_override() else None


def quoted(value: str) -> str:
    """Returns `value` as Hydra's quoted text; interpolations like ${cache_dir} still work in it."""
    value = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    return "'" + re.sub(r"\\+$", lambda match: match[0] * 2, value) + "'"


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and value[0] not in value[1:-1]


def _is_readable(key: str, value: str) -> bool:
    """Tells whether Hydra reads the value as one plain value, and not as a function, a sweep or an error."""
    parsed = _parsed(key, value)
    return parsed is not None and not parsed.is_sweep_override()


def _parsed(key: str, value: str) -> ParsedOverride | None:
    """Returns what Hydra reads, None when it cannot."""
    try:
        return OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return None


def _parts(inside: str) -> Iterator[str]:
    """Yields the parts of a list, or of a sweep, between its top-level commas."""
    depth, quote, start = 0, "", 0
    for i, letter in enumerate(inside):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and not depth:
            yield inside[start:i]
            start = i + 1
    if inside[start:].strip():
        yield inside[start:]
