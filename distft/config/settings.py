"""The keys that a command line sets, held against those that can be set, and put into the tree."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from distft.config.known import Known
from distft.config.nearest import did_you_mean, edits, nearest
from distft.config.overrides import Override, WrongOverride, hydra_value
from distft.config.schema import NULL, SHORT, TARGET_GROUPS
from distft.config.tree import covers

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


def apply_setting(setting: Override, config: DictConfig, known: Known, groups: Collection[str]) -> None:
    """Puts one setting into the tree; WrongOverride when there is no such key or its value cannot be read."""
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


def _refusal(setting: Override, known: Known, groups: Collection[str]) -> str | None:
    first = setting.key.partition(".")[0]
    if first.partition("/")[0] == "hydra":
        return "Hydra's own settings have no effect here. Try: runs_dir, name or launcher"
    if "/" in first or "@" in first:
        return f"is no group.{did_you_mean(nearest(first.partition('/')[0].partition('@')[0], groups))}"
    refusal = known.refusal(setting.key)
    if refusal and "." not in setting.key and (group := nearest(setting.key, groups)):
        meant = known.near(setting.key)
        if meant is None or edits(setting.key, group) <= edits(setting.key, meant.rpartition(".")[2]):
            refusal = f"{setting.key} is not a key.{did_you_mean(group)}"
    if not refusal and setting.prefix == "~":
        return f"{setting.key} cannot be left out. Try: {setting.key}=..."
    return refusal


def _left_out(key: str, config: DictConfig, known: Known) -> bool:
    """Removes a keyword that its target does not need, or does not have; tells whether it did."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent in TARGET_GROUPS else None
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
    meaning, and another good value, in each. typed: keys of the command line, which was told already of those that
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


def with_targets(base: Mapping[str, Any], settings: Collection[Override]) -> dict[str, Any]:
    """Returns `base` with what the user sets of `_target_` and trust, which decide what else may be set."""
    tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in base.items()}
    for setting in settings:
        group, _, name = setting.key.partition(".")
        if name == "_target_" and isinstance(tree.get(group), dict):
            target = (setting.value or "").strip("'\"")
            tree[group][name] = None if target == "null" else target
        if setting.key == "trust":
            words = setting.data if isinstance(setting.data, list) else (setting.value or "").strip("[]").split(",")
            tree["trust"] = [str(word).strip(" '\"") for word in words]
    return tree
