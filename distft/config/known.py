"""Which keys a config may have: the schema's, and the keywords of each group's `_target_`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distft.config.nearest import did_you_mean, nearest, nearest_key
from distft.config.schema import BY_PATH, TARGET_GROUPS, Key
from distft.config.targets import TRUSTED, NotFound, NotInstalled, Parameter, Signature, names_beside, signature
from distft.config.tree import MISSING, at, leaves

_HYDRA_KEYS = ("_target_", "_partial_")
NO_KEY = " --help lists them"
_OPEN = ("data.fields",)  # the user's own names
_OF_THE_MODEL = ("model.architecture", "model.tiny_architecture")  # facts that the model's YAML lists


@dataclass(frozen=True)
class Known:
    """The keys that one choice of groups and targets offers; `open_groups` take any key."""

    keys: dict[str, Key]
    open_groups: tuple[str, ...]
    required: tuple[str, ...]
    errors: tuple[str, ...]

    def key(self, path: str) -> Key | None:
        """Returns the key that `path` sets: itself, or the mapping it stands in."""
        parts = path.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((self.keys[prefix] for prefix in prefixes if self._takes(prefix, path)), None)

    def _takes(self, prefix: str, path: str) -> bool:
        return prefix in self.keys and (prefix == path or prefix in _OPEN)

    def refusal(self, path: str) -> str | None:
        """Returns why a config cannot have `path`; None when it can, or when nobody knows."""
        if self.key(path) or path.partition(".")[0] in self.open_groups:
            return None
        if any(known.startswith(f"{path}.") for known in self.keys):
            inside = next(known for known in self.keys if known.startswith(f"{path}."))
            return f"{path} is a group of keys. Try: {inside}=..."
        return f"{path} is not a key.{did_you_mean(self.near(path)) or NO_KEY}"

    def near(self, path: str) -> str | None:
        """Returns the key that `path` most likely meant."""
        return nearest_key(path, [known for known in self.keys if "._" not in known or "._" in path])


def known_keys(tree: Mapping[str, Any]) -> Known:
    """Returns the keys of a composed tree; a target that is not trusted or not there becomes an error."""
    keys = {path: key for path, key in BY_PATH.items() if path.partition(".")[0] not in TARGET_GROUPS}
    for group in _OF_THE_MODEL:
        keys |= {path: Key(path, (), "a fact of config.json") for path, _ in _facts(tree, group)}
    open_groups, required, errors = [], [], []
    for group in TARGET_GROUPS:
        target = at(tree, f"{group}._target_")
        keys |= {f"{group}.{name}": Key(f"{group}.{name}", (), "of Hydra") for name in _HYDRA_KEYS}
        if target in (None, MISSING):
            keys |= {path: key for path, key in BY_PATH.items() if path.startswith(f"{group}.")}
            continue
        found = _signature(group, str(target), tuple(at(tree, "trust") or ()), errors)
        if found is None or found.open:
            open_groups.append(group)
            keys |= {path: key for path, key in BY_PATH.items() if path.startswith(f"{group}.")}
            continue
        callers = 1 if at(tree, f"{group}._partial_") else 0  # the first argument comes from the training loop
        for parameter in found.parameters[callers:]:
            path = f"{group}.{parameter.name}"
            keys[path] = _key(path, parameter)
            required += [path] if parameter.required and not callers else []
    return Known(keys, tuple(open_groups), tuple(required), tuple(errors))


def _facts(tree: Mapping[str, Any], group: str) -> list[tuple[str, Any]]:
    """Returns the leaves of both descriptions of the architecture, as keys of `group`."""
    both = {**(at(tree, _OF_THE_MODEL[0]) or {}), **(at(tree, _OF_THE_MODEL[1]) or {})}
    return list(leaves(both, prefix=f"{group}."))


def _key(path: str, parameter: Parameter) -> Key:
    return BY_PATH.get(path) or Key(path, parameter.types, "", choices=parameter.choices)


def _signature(group: str, target: str, trust: tuple[str, ...], errors: list[str]) -> Signature | None:
    prefixes = (*TRUSTED, *(f"{prefix.rstrip('.')}." for prefix in map(str, trust)))
    if not target.startswith(prefixes):
        own = f"{target.partition('.')[0]}."
        errors.append(
            f"{group}._target_={target}: code is run from {', '.join(prefixes)} only. Try: trust=[{own}] allows it"
        )
        return None
    try:
        return signature(target)
    except NotInstalled as error:
        if not target.startswith(TRUSTED):  # a login node may lack torch: its keywords are looked at where it is
            errors.append(f"{group}._target_={target}: {error}. Try: pip install {target.partition('.')[0]}")
        return None
    except NotFound as error:
        errors.append(f"{group}._target_={target}: {error}.{did_you_mean(nearest(target, names_beside(target)))}")
        return None
