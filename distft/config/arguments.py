"""The few keys that belong to a command and not to a run: `run=DIR out=DIR memory_gib=80`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distft.config.errors import ConfigError


@dataclass(frozen=True)
class Argument:
    """A key of a command: `type` makes its value from text and raises ValueError for a wrong one."""

    name: str
    type: type
    help: str
    required: bool = False


def take(argv: Sequence[str], arguments: Sequence[Argument]) -> tuple[dict[str, Any], list[str]]:
    """Returns the values of `arguments` (None where not given) and what is left of argv; ConfigError if one is wrong."""
    values: dict[str, Any] = dict.fromkeys(argument.name for argument in arguments)
    known = {argument.name: argument for argument in arguments}
    rest, errors = [], []
    for text in argv:
        name, equals, value = text.partition("=")
        if name not in known or not equals:
            rest.append(text)
            continue
        try:
            values[name] = known[name].type(value)
        except ValueError:
            errors.append(f"{text} is not {'a number' if known[name].type in (int, float) else 'valid'}. Nearest: {name}=80")
    errors += [f"{a.name} is missing: {a.help}. Nearest: {a.name}=..." for a in arguments if a.required and values[a.name] is None]
    if errors:
        raise ConfigError(errors)
    return values, rest
