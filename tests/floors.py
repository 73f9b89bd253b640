"""The floors in pyproject.toml, and the signatures of what distft uses of its libraries as they have them.

`python -m tests.floors constraints OUT` writes the floors for pip, `python -m tests.floors signatures OUT` the
signatures in this environment as JSON. `make floor` writes tests/floors.json so, and `tests/compat/test_floors.py`
holds distft's code to that file where the floors are not installed.
Not seen: a method of an object that a call has returned.
"""

import ast
import importlib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support.sources import nodes

CHECKOUT = Path(__file__).parents[1]
FILE = Path(__file__).with_suffix(".json")
_MODULES = {"hydra_core": "hydra", "pyyaml": "yaml"}  # imported under another name
WHOLE = ("torch", "torch.distributed", "torch.nn", "torch.nn.functional", "torch.accelerator", "torch.cuda")


@dataclass(frozen=True)
class Use:
    """A library's name in distft's code, with the keywords that a call passes to it."""

    name: str
    keywords: tuple[str, ...]
    place: str


def requirements() -> dict[str, str]:
    """Returns package -> floor, of the packages in pyproject.toml; `>=2.11` gives 2.11."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    found = (re.fullmatch(r"([\w-]+)>=([\d.]+)(,<[\d.]+)?", each) for each in project["dependencies"])
    return {each[1]: each[2] for each in found if each}


@cache
def libraries() -> set[str]:
    names = {name.lower().replace("-", "_") for name in requirements()}
    return {_MODULES.get(name, name) for name in names}


def uses() -> Iterator[Use]:
    """Yields every import of a library in distft, and every call of what was imported."""
    known = libraries()
    for file in sorted((CHECKOUT / "distft").rglob("*.py")):
        code, place = nodes(file), file.relative_to(CHECKOUT)
        names = dict(_imported(code, known))
        yield from (Use(name, (), str(place)) for name in names.values())
        for node in code:
            if isinstance(node, ast.Call) and (name := _dotted(node.func, names)):
                yield Use(name, tuple(each.arg for each in node.keywords if each.arg), f"{place}:{node.lineno}")


def _imported(code: Iterable[ast.AST], known: set[str]) -> Iterator[tuple[str, str]]:
    """Yields local name -> dotted name of each import from a library."""
    for node in code:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                if top in known:
                    yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in known:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """Returns the dotted name of a call's function where it begins with an import; None for what an object gives."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])


def reaches() -> list[Any]:
    """Returns all that distft/compat declares."""
    files = sorted((CHECKOUT / "distft" / "compat").glob("*.py"))
    modules = (importlib.import_module(f"distft.compat.{file.stem}") for file in files if file.stem != "__init__")
    return [reach for module in modules for reach in getattr(module, "REACHES", ())]


def of_python(reach: Any) -> bool:
    """Returns whether a reach is into Python itself, of which no floor is recorded."""
    return reach.name.partition(".")[0] in sys.stdlib_module_names


def resolve(name: str) -> Any:
    """Returns what a dotted name stands for; AttributeError or ImportError where there is none.

    Modules come first: torch.distributed.rendezvous is a module and, as an attribute, a function of it.
    """
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[count:], found)
    raise ModuleNotFoundError(name)


def takes(thing: Any) -> list[str] | None:
    """Returns the names of a function's parameters, `**` for any further one; None if Python has no signature."""
    if type(thing).__name__ == "OpOverloadPacket":  # an operator of torch
        return [each.name for each in thing.default._schema.arguments]
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    return ["**" if each.kind is each.VAR_KEYWORD else each.name for each in parameters]


def signatures(names: Iterable[str]) -> dict[str, list[str] | None]:
    """Returns the parameters of each name that the installed versions have."""
    found: dict[str, list[str] | None] = {}
    for name in names:
        try:
            found[name] = takes(resolve(name))
        except (AttributeError, ImportError):
            continue
    return found


def recorded() -> dict[str, Any]:
    """Returns versions and signatures; of the modules in WHOLE those of every public name, for calls yet to come."""
    names = {each.name for each in uses()} | {each.name for each in reaches() if not of_python(each)}
    names |= {f"{module}.{name}" for module in WHOLE for name in dir(resolve(module)) if not name.startswith("_")}
    versions = {name: version(name) for name in sorted(requirements())}
    return {"python": sys.version.split()[0], "versions": versions, "names": dict(sorted(signatures(names).items()))}


def constraints() -> str:
    """Returns the floors of pyproject.toml for pip: the newest patch of each."""
    return "".join(f"{name}=={floor}.*\n" for name, floor in requirements().items())


def as_json(about: dict[str, Any]) -> str:
    """Returns what was recorded with a line for each name."""
    lines = (f"  {json.dumps(name)}: {json.dumps(known)}" for name, known in about.pop("names").items())
    head = json.dumps(about, indent=1)[1:-2]
    return "{" + head + ',\n "names": {\n' + ",\n".join(lines) + "\n }\n}\n"


if __name__ == "__main__":
    what, out = sys.argv[1:]
    Path(out).write_text({"constraints": constraints, "signatures": lambda: as_json(recorded())}[what]())
