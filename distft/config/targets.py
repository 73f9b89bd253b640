"""Reads the signature of a dotted `_target_` out of its source, so that nothing heavy is imported.

Trap: find_spec of a dotted name imports the parent packages; only the top name is looked up, the rest are files.
"""

import ast
import importlib.util
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

from hydra.utils import get_class, instantiate

from distft.config.key import NULL, Number, Part

TRUSTED = ("distft.", "torch.optim.", "torch.nn.")
_MAX_HOPS = 8  # of re-exports
_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "List": list, "dict": dict, "None": NULL}
_TYPES |= {"tuple": list, "Tuple": list, "Sequence": list, "Iterable": list, "Mapping": dict}


@dataclass(frozen=True)
class Parameter:
    """One keyword of a target; `types` is empty when its annotation says nothing this module understands."""

    name: str
    required: bool
    types: tuple[type, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def annotation(self) -> Any:
        """The types and words as one annotation; Any where they are not known."""
        union: Any = Union
        words: Any = Literal
        kinds = [kind for kind in self.types if not (kind is str and self.choices)]
        parts = [Number if kind is float else kind for kind in kinds] + ([words[self.choices]] if self.choices else [])
        return union[tuple(parts)] if parts else Any


@dataclass(frozen=True)
class Signature:
    """What a target can be called with; `open` when it takes any keyword."""

    parameters: tuple[Parameter, ...]
    open: bool = False

    def get(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


class NotFound(Exception):
    """The target does not exist; the message says which part of the name is missing."""


class NotInstalled(NotFound):
    """The package that the target is of is not here; it may be where the run will be."""


@cache
def signature(target: str) -> Signature | None:
    """Returns how `target` is called, None when its source says too little; NotFound when it is not there."""
    names = target.split(".")
    file, used = _file_of(names)
    if file is None:
        return None
    if len(names) - used != 1:
        raise NotFound(f"there is no module {'.'.join(names[: used + 1])}")
    found = _definition(file, names[-1], _MAX_HOPS)
    if found is None:
        raise NotFound(f"{'.'.join(names[:-1])} has no {names[-1]}")
    return found if isinstance(found, Signature) else None


def names_beside(target: str) -> list[str]:
    """Returns the public classes and functions of the target's module, as full dotted names."""
    names = target.split(".")
    file, used = _file_of(names)
    if file is None:
        return []
    tree = _parse(file)
    return [".".join([*names[:used], name]) for name in _names_in(tree) if not name.startswith("_")]


def _names_in(tree: ast.Module) -> list[str]:
    own = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    taken = [a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names]
    return own + taken


def _file_of(names: list[str]) -> tuple[Path | None, int]:
    """Returns the source file of the longest prefix of `names` that is a module, and the length of that prefix."""
    spec = importlib.util.find_spec(names[0])
    if spec is None or spec.origin is None:
        raise NotInstalled(f"the package {names[0]} is not installed")
    if not spec.origin.endswith(".py"):
        return None, 1
    file, used = Path(spec.origin), 1
    while used < len(names) and file.name == "__init__.py":
        module_file = next((f for f in _candidates(file.parent, names[used]) if f.is_file()), None)
        if module_file is None:
            break
        file, used = module_file, used + 1
    return file, used


def _candidates(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name / "__init__.py", folder / f"{name}.py"


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _definition(file: Path, name: str, hops: int) -> Signature | bool | None:
    """Returns the signature of `name` in `file`, True when it is there but unreadable, None when it is not there."""
    tree = _parse(file)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _class_signature(node, file, hops)
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _function_signature(node, skip=0)
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return True
        if not isinstance(node, ast.ImportFrom) or not hops:
            continue
        for alias in node.names:
            if (alias.asname or alias.name) in (name, "*"):
                origin = _imported_file(file, node)
                found = _definition(origin, name if alias.name == "*" else alias.name, hops - 1) if origin else True
                if found or alias.name != "*":
                    return found
    return None


def _imported_file(file: Path, node: ast.ImportFrom) -> Path | None:
    parts = node.module.split(".") if node.module else []
    if node.level:
        folder = file.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        for part in parts[:-1]:
            folder = folder / part
        options = _candidates(folder, parts[-1]) if parts else (folder / "__init__.py",)
        return next((option for option in options if option.is_file()), None)
    try:
        origin, used = _file_of(parts)
    except NotFound:
        return None
    return origin if used == len(parts) else None


def _class_signature(node: ast.ClassDef, file: Path, hops: int) -> Signature | bool:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            config = _config_of(item, file)
            return _dataclass_signature(config, file, hops) if config else _function_signature(item, skip=1)
    if _is_dataclass(node):
        return _dataclass_signature(node, file, hops)
    if not node.bases:
        return Signature(())
    base = node.bases[0]
    found = _definition(file, base.id, hops - 1) if isinstance(base, ast.Name) and hops else None
    return found or True


def _config_of(init: ast.FunctionDef, file: Path) -> ast.ClassDef | None:
    """Returns the dataclass, in the same file, that a constructor takes as its only argument; None of any other."""
    arguments = init.args.args[1:]
    if len(arguments) != 1 or init.args.kwonlyargs or init.args.kwarg:
        return None
    name = _name(arguments[0].annotation)
    classes = (node for node in _parse(file).body if isinstance(node, ast.ClassDef) and node.name == name)
    return next(filter(_is_dataclass, classes), None)


def _is_dataclass(node: ast.ClassDef) -> bool:
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(_name(d) == "dataclass" for d in decorators)


def _dataclass_signature(node: ast.ClassDef, file: Path, hops: int) -> Signature | bool:
    """Returns the fields of a dataclass, after those that it inherits; True where a base cannot be read."""
    found: dict[str, Parameter] = {}
    for base in reversed(node.bases):
        of_base = _base(base, file, hops)
        if of_base is True:
            return True
        found |= {parameter.name: parameter for parameter in of_base.parameters}
    own = [item for item in node.body if isinstance(item, ast.AnnAssign) and not _is_internal(item)]
    found |= {_name(f.target): _parameter(_name(f.target), f.annotation, f.value is None) for f in own}
    return Signature(tuple(found.values()))


def _base(base: ast.expr, file: Path, hops: int) -> Signature | Literal[True]:
    """Returns the fields of a dataclass's base, none of one of typing's; True where it cannot be read."""
    name = _name(base.value if isinstance(base, ast.Subscript) else base)
    if name in ("Protocol", "Generic"):
        return Signature(())
    found = _definition(file, name, hops - 1) if name and hops else None
    return found if isinstance(found, Signature) else True


def built(part: Part) -> Any:
    """Returns what the `_target_` of a section makes of its keywords, as plain lists and dicts."""
    return instantiate(part.plain(), _convert_="all")  # those of omegaconf are not JSON


def build(target: str, settings: Mapping[str, Any], optional: Collection[str] = ()) -> Any:
    """Calls a `_target_` with its keywords, or with the one dataclass of them that its constructor takes.

    optional: keys that are left out where the target does not take them.
    """
    called = get_class(target)
    parameters = list(inspect.signature(called).parameters.values())
    config = parameters[0].annotation if len(parameters) == 1 else None
    names = [each.name for each in fields(config)] if is_dataclass(config) else [each.name for each in parameters]
    is_open = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    given = {name: value for name, value in settings.items() if is_open or name in names or name not in optional}
    return called(config(**given)) if isinstance(config, type) and is_dataclass(config) else called(**given)


def _is_internal(item: ast.AnnAssign) -> bool:
    """Returns whether a field of a dataclass is no argument: `field(init=False)`."""
    keywords = item.value.keywords if isinstance(item.value, ast.Call) else []
    return any(keyword.arg == "init" and _constant(keyword.value) is False for keyword in keywords)


def _function_signature(node: ast.FunctionDef, skip: int) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args]
    first_default = len(positional) - len(node.args.defaults)
    parameters = [_parameter(a.arg, a.annotation, i < first_default) for i, a in enumerate(positional)][skip:]
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        parameters.append(_parameter(argument.arg, argument.annotation, default is None))
    return Signature(tuple(parameters), open=node.args.kwarg is not None)


def _parameter(name: str, annotation: ast.expr | None, required: bool) -> Parameter:
    types, choices = _understood(annotation)
    return Parameter(name, required, types, choices)


def _understood(annotation: ast.expr | None) -> tuple[tuple[type, ...], tuple[str, ...]]:
    """Returns the plain types and literal words of an annotation; nothing at all when a part is not plain."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    types: list[type] = []
    choices: list[str] = []
    for part in _alternatives(annotation):
        head = part.value if isinstance(part, ast.Subscript) else part
        name = _name(head)
        if name == "Literal" and isinstance(part, ast.Subscript):
            values = [_constant(v) for v in (part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice])]
            types += [type(value) for value in values]
            choices += [value for value in values if isinstance(value, str)]
        elif name in _TYPES:
            types.append(_TYPES[name])
        elif name != "Tensor":  # no YAML holds one
            return (), ()
    return tuple(dict.fromkeys(types)), tuple(choices)


def _alternatives(annotation: ast.expr | None) -> list[ast.expr | None]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*_alternatives(annotation.left), *_alternatives(annotation.right)]
    if isinstance(annotation, ast.Subscript) and _name(annotation.value) == "Optional":
        return [*_alternatives(annotation.slice), ast.Constant(None)]
    if isinstance(annotation, ast.Subscript) and _name(annotation.value) == "Union":
        parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return [found for part in parts for found in _alternatives(part)]
    return [annotation]


def _name(node: ast.AST | None) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and node.value is None:
        return "None"
    return ""


def _constant(node: ast.AST) -> Any:
    return node.value if isinstance(node, ast.Constant) else None


def check_trusted(config: Mapping[str, Any]) -> None:
    """Raises ValueError when a `_target_` anywhere in the config is not of a prefix that code is run from."""
    prefixes = (*TRUSTED, *(f"{str(prefix).rstrip('.')}." for prefix in config.get("trust") or ()))
    for path, target in _targets(config, ""):
        if target is not None and not str(target).startswith(prefixes):
            raise ValueError(f"{path}={target}: code is run from {', '.join(prefixes)} only")


def _targets(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            below = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield below, inner
            else:
                yield from _targets(inner, below)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _targets(inner, f"{path}[{i}]")
