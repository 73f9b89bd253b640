"""`distft config_schema [out=FILE]`: the JSON Schema of a config file, for editors that complete and check YAML.

It describes keys, types, ranges and words; combinations of keys are what `distft check` is for. In VS Code's YAML
extension and other language servers the first line of a file names it: `# yaml-language-server: $schema=FILE`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from distft.config import Config, ConfigError, command
from distft.config.command import keywords, usage
from distft.config.compose import Groups
from distft.config.key import MISSING, Group, Key
from distft.config.parts import TARGET_GROUPS, TRACKER
from distft.config.schema import KEYS, SHORT
from distft.paths import absolute, conf_dir, why_not_writable
from distft.run import json_text, write_json

OWN = {"out": "file to write (default: print it)"}
CLAIM = """Prints the JSON Schema of a config file, of one's own or of a run, for editors that complete and check YAML:
  distft config_schema out=schema.json
and as the first line of the file:
  # yaml-language-server: $schema=schema.json"""
Schema = dict[str, Any]  # free-form JSON
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_INTERPOLATION = {"type": "string", "pattern": r"\$\{"}  # ${cache_dir} stands for the value of that key


def main(arguments: list[str]) -> int:
    """Returns 0 with the schema printed, or written to `out`."""
    given = keywords(arguments, OWN, required=())
    if "out" in given:
        out = absolute(given["out"])
        if why := why_not_writable(out.parent):
            raise ConfigError([f"out={given['out']}: {why}. Try: out=schema.json"])
        write_json(out, schema())
        print(out)
    else:
        print(json_text(schema(), indent=2))
    return 0


def schema() -> Schema:
    """Returns the schema of a file: keys nested in their groups or with dots, and words of groups."""
    groups = Groups(conf_dir()).words
    tree = _section(Config, "", groups)
    for key in KEYS:  # flat: `train.max_steps: 100`
        tree["properties"].setdefault(key.path, _value(key))
    for short, path in SHORT.items():  # `export: false`
        _alternatives(tree["properties"], short).append({"type": "boolean", "description": f"short for {path}"})
    for group, words in groups.items():
        _alternatives(tree["properties"], group).append(_words(group, words))
    tree["properties"]["defaults"] = {"type": "array", "description": "groups and words, as files in conf/ have them"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "config of distft", **tree}


def _section(section: type[Group], prefix: str, groups: Mapping[str, Any]) -> Schema:
    """Returns the schema of a group of keys; further keys are allowed where a `_target_` takes them."""
    properties: Schema = {}
    inside = {name: info.annotation for name, info in section.model_fields.items() if name != "work"}
    own = {key.path.removeprefix(prefix): key for key in KEYS if key.path.startswith(prefix)}
    for name, key in own.items():
        properties[name] = _value(key)
    for name, annotation in inside.items():
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and issubclass(annotation, Group):
            properties[name] = {"anyOf": [_section(annotation, f"{prefix}{name}.", {})]}
    is_open = prefix.partition(".")[0] in TARGET_GROUPS or prefix.startswith("model.")
    about = {"description": (section.__doc__ or "").partition("\n")[0]}
    return {"type": "object", **about, "properties": properties, "additionalProperties": is_open}


def _value(key: Key) -> Schema:
    """Returns the schema of a key's value, with its default and help."""
    default = {"default": key.default} if key.default != MISSING and key.fits(key.default) else {}
    return {
        "description": key.help,
        **default,
        "anyOf": [_bounded(TypeAdapter(key.annotation).json_schema()), _INTERPOLATION],
    }


def _bounded(found: Any) -> Any:
    """Returns the schema with JSON Schema's names of bounds: pydantic leaves those of a union under its own."""
    if isinstance(found, dict):
        return {_BOUNDS.get(name, name): _bounded(value) for name, value in found.items()}
    return [_bounded(each) for each in found] if isinstance(found, list) else found


def _words(group: str, words: list[str]) -> Schema:
    """Returns the schema of what chooses a group's part."""
    word = {"enum": words, "description": f"a file of conf/{group}/"}
    if group == TRACKER:
        return {"anyOf": [word, {"type": "array", "items": word, "uniqueItems": True}]}
    if group == "experiment":
        return {"anyOf": [word, {"type": ["string", "null"], "pattern": r"/|\.ya?ml$"}]}
    return word


def _alternatives(properties: Schema, name: str) -> list[Schema]:
    """Returns the list of what a property may be, to append to."""
    return properties.setdefault(name, {"anyOf": []})["anyOf"]


if __name__ == "__main__":
    command(main, help=usage("config_schema", OWN, CLAIM))
