"""The keys that a command line sets, held against those that can be set, and put into the tree."""

from collections.abc import Collection, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from distft.config.known import Known
from distft.config.nearest import did_you_mean, edits, nearest
from distft.config.overrides import Override, WrongOverride, hydra_value
from distft.config.schema import NULL, TARGET_GROUPS


def apply_setting(setting: Override, config: DictConfig, known: Known, groups: Collection[str]) -> None:
    """Puts one setting into the tree; WrongOverride when there is no such key or its value cannot be read."""
    if setting.prefix == "~" and _left_out(setting.key, config, known):
        return
    if refusal := _refusal(setting, known, groups):
        raise WrongOverride(f"{setting.text}: {refusal}")
    key = known.key(setting.key)
    text = key is not None and str in key.types and set(key.types) <= {str, list, NULL}
    value = hydra_value(setting.key, setting.value or "", text=text)
    [parsed] = OverridesParser.create().parse_overrides([f"{setting.key}={value}"])
    OmegaConf.update(config, setting.key, parsed.value(), merge=True, force_add=True)


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
            refusal = f"{setting.key} is not a key.{did_you_mean(f'{group}=')}"
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


def with_targets(base: Mapping[str, Any], settings: Collection[Override]) -> dict[str, Any]:
    """Returns `base` with what the user sets of `_target_` and trust, which decide what else may be set."""
    tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in base.items()}
    for setting in settings:
        group, _, name = setting.key.partition(".")
        if name == "_target_" and isinstance(tree.get(group), dict):
            tree[group][name] = (setting.value or "").strip("'\"")
        if setting.key == "trust":
            tree["trust"] = [word.strip(" '\"") for word in (setting.value or "").strip("[]").split(",")]
    return tree
