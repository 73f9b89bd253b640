"""Splits what a user typed into key and value, and writes it the way Hydra reads it.

Trap: Hydra's grammar trips over plain paths (`~/a.jsonl`, `a(1).jsonl`, `s3://b?x=1`) and reads a bare comma as a
sweep and `name=2024` as a number, so values of text keys are quoted here.
"""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as ParsedOverride
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from distft.config.check import Known
from distft.config.errors import NOT_OURS, OURS, SURELY, did_you_mean, likeness, nearest, nearest_key
from distft.config.key import NULL, Values, covers, shown
from distft.config.parts import TRACKER, named_tracker, target_sections
from distft.config.schema import BY_PATH, SHORT
from distft.run import tracker_name

_MAPPING = re.compile(r"\{\s*\w+\s*:.*\}$", re.DOTALL)
_OVERRIDE = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[^=\s+~]+)(?:=(?P<value>.*))?", re.DOTALL)
MULTIRUN = ("-m", "--multirun")
CONFIG = "config"  # names a YAML file of one's own
_HYDRA_FILES = ("--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp", "--config")
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)  # with escaped quotes inside
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
        if name == "--json" or (len(name) > 4 and likeness(name, "--json") >= SURELY):
            those = "--json, of check, plan, evaluate, report, runs and doctor"
            raise WrongOverride(f"{text}: is not an option of this command. Did you mean {those}?")
        near = nearest_key(name.strip("-").replace("-", "_"), list(BY_PATH))
        if near in BY_PATH:
            near += text[len(name) :] or "=..."
        meant = near or (text.strip("-") if "=" in text else "")
        hint = f". Try: {meant}" if meant else ""
        hint = f". Try: {CONFIG}=FILE.yaml, a config file of your own" if name in _HYDRA_FILES else hint
        raise WrongOverride(f"{text}: there are no options here but --help; settings are written key=value{hint}")
    match = _OVERRIDE.fullmatch(text)
    if match is None and text.endswith((".yaml", ".yml")):
        raise WrongOverride(f"{text}: is not of the form key=value. Try: {CONFIG}={text}")
    if match is None or not _PLAIN.fullmatch(match["key"]):
        raise WrongOverride(f"{text}: is not of the form key=value")
    if match["value"] is None and match["prefix"] != "~":
        if text.endswith((".yaml", ".yml")):
            raise WrongOverride(f"{text}: has no value. Try: {CONFIG}={text}")
        raise WrongOverride(f"{text}: has no value. Try: {match['key']}=...")
    return Override(text, match["prefix"] or "", match["key"], match["value"])


def is_key(text: str) -> bool:
    """Returns whether a text can be a dotted key."""
    return _PLAIN.fullmatch(text) is not None


def hydra_value(key: str, value: str, *, text: bool) -> str:
    """Returns `value` in Hydra's grammar, text quoted where needed; WrongOverride for a sweep.

    text: the key takes text, so `2024` and `true` are words.
    """
    value = value.strip()
    if value in ("", "null") or _is_quoted(value):
        return value or "''"
    if value.startswith("[") and value.endswith("]"):
        return "[" + ",".join(_item(key, part.strip(), text=text) for part in _parts(value[1:-1])) + "]"
    if "," in value and not value.startswith("{") and not Path(value).expanduser().exists():
        many, one = shlex.quote(f"{key}=[{value}]"), shlex.quote(f"{key}={quoted(value)}")
        as_text = f", {one} for one text" if text else ""
        raise WrongOverride(
            f"{key}={value}: values between commas are a sweep. "
            f"Try: -m (launch and plan, a run of each value), {many} for a list{as_text}"
        )
    if text or not _is_readable(key, value):
        return quoted(value)
    return value


def _item(key: str, value: str, *, text: bool) -> str:
    """Returns an item of a list in Hydra's grammar; a mapping, such as {path: a.jsonl, weight: 2}, part by part."""
    if not _MAPPING.match(value) or Path(value).expanduser().exists():
        return hydra_value(key, value, text=text)
    pairs = (part.partition(":") for part in _parts(value[1:-1]))
    return "{" + ",".join(f"{name.strip()}:{hydra_value(key, given, text=False)}" for name, _, given in pairs) + "}"


def override_of(key: str, value: Any) -> str:
    """Returns the `key=value` that is read back as a plain value: null, a bool, a number, text, a list or a mapping."""
    if isinstance(value, str):
        misread = value in ("", "null") or _is_quoted(value) or value.startswith(("[", "{")) or value != value.strip()
        is_sweep = len(list(_parts(value))) > 1
        return f"{key}={quoted(value) if misread or is_sweep or not _is_readable(key, value) else value}"
    return f"{key}={_in_grammar(value)}"


def _in_grammar(value: Any) -> str:
    """Returns a plain value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_in_grammar(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_in_grammar, value)) + "]"
    return quoted(value) if isinstance(value, str) else shown(value)


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
    return _QUOTED.fullmatch(value) is not None


def _is_readable(key: str, value: str) -> bool:
    """Returns whether Hydra reads the value as one plain value, and not as a function, a sweep or an error."""
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
    depth, quote, start, escaped = 0, "", 0, False
    for i, letter in enumerate(inside):
        if quote:
            quote = "" if letter == quote and not escaped else quote
            escaped = letter == "\\" and not escaped
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


SHARED_BY_OPTIMIZERS = ("lr", "weight_decay")


def long_form(setting: Override) -> Override:
    """Returns the setting of `export.enabled` for `export=false`, the short form; others as they are."""
    is_short = setting.key in SHORT and not (setting.value or "").lstrip().startswith("{")
    return replace(setting, key=SHORT[setting.key]) if is_short else setting


def with_long_forms(config: DictConfig, defaults: Mapping[str, Any]) -> None:
    """Gives a section that a YAML sets to true or false, as in `export: false`, the rest of its keys back.

    defaults: what conf/config.yaml says of the sections.
    """
    for section in SHORT:
        if isinstance(enabled := config.get(section), bool):
            config[section] = {**defaults[section], "enabled": enabled}


def apply_setting(setting: Override, config: DictConfig, known: Known, groups: Mapping[str, Collection[str]]) -> None:
    """Puts one setting into the tree; WrongOverride when there is no such key or its value cannot be read.

    groups: the words of each group.
    """
    if setting.prefix == "~" and _left_out(setting.key, config, known):
        return
    if refusal := _refusal(setting, known, groups):
        raise WrongOverride(f"{setting.text}: {refusal}")
    key = known.key(setting.key)
    text = key is not None and str in key.types and set(key.types) <= {str, list, NULL}
    if setting.data is not ...:
        data = setting.value if text and isinstance(setting.data, bool | int | float) else setting.data
    else:
        value = hydra_value(setting.key, setting.value or "", text=text)
        [parsed] = OverridesParser.create().parse_overrides([f"{setting.key}={value}"])
        data = parsed.value()
    OmegaConf.update(config, setting.key, data, merge=True, force_add=True)


def _refusal(setting: Override, known: Known, groups: Mapping[str, Collection[str]]) -> str | None:
    first = setting.key.partition(".")[0]
    if first.partition("/")[0] == "hydra":
        return "Hydra's own settings have no effect here. Try: runs_dir, name or launcher"
    if "/" in first or "@" in first:
        return f"is no group.{did_you_mean(nearest(first.partition('/')[0].partition('@')[0], groups))}"
    if setting.key == "run" and setting.value:
        name, file = Path(setting.value).name, Path(setting.value) / "config.yaml"
        return f"a run is continued by its name, or started from. Try: name={name} with its settings, or config={file}"
    refusal = known.refusal(setting.key)
    ours, is_group, _ = OURS.get(setting.key, "").partition("=")
    if refusal and is_group and setting.value in groups.get(ours, ()):  # report_to=tensorboard
        return f"{setting.key} is not a key.{did_you_mean(f'{ours}={setting.value}')}"
    is_bare = "." not in setting.key and setting.key not in (*OURS, *NOT_OURS)
    if refusal and is_bare and (group := nearest(setting.key, groups)):
        meant = known.near(setting.key)
        if meant is None or likeness(setting.key, group) >= likeness(setting.key, meant.rpartition(".")[2]):
            refusal = f"{setting.key} is not a key.{did_you_mean(group)}"
    if not refusal and setting.prefix == "~":
        return f"{setting.key} cannot be left out. Try: {setting.key}=..."
    return refusal


def _left_out(key: str, config: DictConfig, known: Known) -> bool:
    """Removes a keyword that its target does not need, or does not have; returns whether it did."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent in target_sections(config[TRACKER]) else None
    if key in known.required or not isinstance(node, DictConfig) or name not in node:
        return False
    del node[name]
    return True


def drop_others_keywords(
    config: DictConfig,
    group: str,
    own: str | None,
    known: Known,
    typed: Collection[str],
    of_experiment: Collection[str],
) -> None:
    """Removes what the chosen word's YAML says for its `own` target where another one is called.

    What that one takes stays; of an optimizer the learning rate and weight decay alone: betas and eps have another
    meaning, and another good value, in each. typed: keys of the command line, which has already reported those that
    the other one does not take.
    """
    settings = OmegaConf.select(config, group)
    if not isinstance(settings, DictConfig) or settings.get("_target_") in (own, None):
        return
    for name in [str(name) for name in settings if not str(name).startswith("_")]:
        key = f"{group}.{name}"
        is_refused = known.refusal(key) is not None
        is_anothers = group == "optimizer" and name not in SHARED_BY_OPTIMIZERS
        said = of_experiment if is_refused else {*typed, *of_experiment}
        if (is_refused or is_anothers) and not any(covers([key], each) for each in said):
            del settings[name]


def target_of(setting: Override) -> str | None:
    """Returns the `_target_` that a setting names."""
    target = (setting.value or "").strip("'\"")
    return None if target in ("", "null") else target


def with_tracker_names(settings: Sequence[Override], chosen: Collection[str], words: Collection[str]) -> list[Override]:
    """Returns the settings with the tracker's name in its keys: `tracker.project` is an alias where one is chosen.

    A `_target_` without a name, as older versions froze it, is a tracker named after its module.
    """
    prefix = f"{TRACKER}."
    parts = [setting.key.removeprefix(prefix).split(".") for setting in settings if setting.key.startswith(prefix)]
    names = {*words, *chosen, *(first for first, *rest in parts if rest == ["_target_"])}
    targets = {setting.key: target_of(setting) for setting in settings if setting.key == f"{prefix}_target_"}
    own = list(chosen) or [tracker_name(target) for target in targets.values() if target]
    named = []
    for setting in settings:
        first = setting.key.removeprefix(prefix).partition(".")[0]
        if setting.key == f"{prefix}_target_" and not own:
            continue  # null: no tracker, as older versions froze it
        named.append(setting if first in names else replace(setting, key=named_tracker(setting.key, own)))
    return named


def with_targets(base: Mapping[str, Any], settings: Collection[Override]) -> Values:
    """Returns `base` with what the user sets of `_target_` and trust, which decide what else may be set."""
    tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in base.items()}
    for setting in settings:
        section, _, name = setting.key.rpartition(".")
        if name == "_target_" and isinstance(tree.get(section.partition(".")[0]), dict):
            target = target_of(setting)
            node = tree
            for part in section.split("."):
                node[part] = dict(node.get(part) or {})
                node = node[part]
            node[name] = target
        if setting.key == "trust":
            words = setting.data if isinstance(setting.data, list) else (setting.value or "").strip("[]").split(",")
            tree["trust"] = [str(word).strip(" '\"") for word in words]
    return tree
