"""Which cleaning rules a config has on, and what of them is in the content key.

Login nodes compute the key, so nothing heavier than a rule that is on is imported.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distft.config.cleaning import Clean, Groups
from distft.config.schema import Config
from distft.paths import absolute, matching

GROUPS = "groups"


def overlap_action(config: Config) -> str:
    """Returns what data.overlap says; `auto` drops where leakage is looked for and warns elsewhere."""
    if config.data.overlap != "auto":
        return config.data.overlap
    return "drop" if config.clean.leakage.enabled else "warn"


def is_cleaned(clean: Clean) -> bool:
    """Returns whether a rule, or a way to group rows, is on."""
    return bool(rules_that_are_on(clean)) or clean.groups != Groups()


def rule_names(clean: Clean) -> list[str]:
    return [name for name, section in clean if not isinstance(section, Groups)]


def rules_that_are_on(clean: Clean) -> list[str]:
    return [name for name in rule_names(clean) if getattr(clean, name).enabled]


def rule_module(name: str) -> Any:
    return importlib.import_module(f"distft.data.cleaning.rules.{name}")


def key_part(config: Config, file_hash: Callable[[str], str]) -> dict[str, dict[str, object]]:
    """Returns what of cleaning determines the prepared rows, by rule: options, versions and files.

    file_hash: of the path of a file that an option names.
    """
    part: dict[str, dict[str, object]] = {}
    for name in rules_that_are_on(config.clean):
        options = getattr(config.clean, name).plain()
        if name == "toxicity" and options["words"]:
            options["words"] = file_hash(options["words"])
        if name == "leakage":
            options["against"] = [file_hash(str(file)) for file in files_of(options["against"])]
            options["action"] = overlap_action(config)
        part[name] = options | {"version": rule_module(name).VERSION}
    if config.clean.groups != Groups():
        part[GROUPS] = config.clean.groups.plain()
    return part


def files_of(paths: Sequence[str]) -> Iterator[Path]:
    """Yields the files that paths or patterns name, in order; raises ValueError where none matches."""
    for path in map(absolute, paths):
        files = [path] if path.is_file() else sorted(matching(path))
        if not files:
            raise ValueError(f"clean.leakage.against={path}: there is no such file")
        yield from files
