"""distft's code works with the floors of pyproject.toml, checked by tests/floors.json without installing them."""

import ast
import inspect
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from distft.compat.reach import Reach, known, parameters
from tests.floors import (
    CHECKOUT,
    FILE,
    Use,
    libraries,
    of_python,
    reaches,
    requirements,
    resolve,
    signatures,
    takes,
    uses,
)
from tests.support.sources import nodes

REMEDY = "Try: another way to the same, distft.compat.reach.known for a younger keyword, or make floor for a new name"
REACHES = reaches()
ALLOWED = {"_exit", "_replace", "_asdict"}  # Python documents them
RECORDED = json.loads(FILE.read_text())


def unknown(each: Use, names: dict[str, list[str] | None]) -> str | None:
    """Returns what of a use the recorded signatures do not have."""
    if each.name not in names:
        return f"{each.place}: {each.name} is not there. {REMEDY}"
    has = names[each.name]
    wrong = [] if has is None or "**" in has else [keyword for keyword in each.keywords if keyword not in has]
    return f"{each.place}: {each.name} does not know {', '.join(wrong)}. {REMEDY}" if wrong else None


def test_every_name_and_keyword_in_use_is_known_at_the_floors() -> None:
    found = list(uses())
    assert len(found) > 300
    assert [wrong for each in found if (wrong := unknown(each, RECORDED["names"]))] == []


def test_a_keyword_that_the_floor_does_not_know_is_found() -> None:
    attention = "torch.nn.attention.varlen.varlen_attn"
    assert unknown(Use(attention, ("scale",), "here"), RECORDED["names"]) is None
    assert "does not know num_splits" in str(unknown(Use(attention, ("num_splits",), "here"), RECORDED["names"]))
    assert "is not there" in str(unknown(Use("torch.nn.no_such_name", (), "here"), RECORDED["names"]))


@pytest.mark.parametrize("reach", [each for each in REACHES if not of_python(each)], ids=lambda reach: reach.name)
def test_the_floor_versions_have_every_reach(reach: Reach) -> None:
    has = RECORDED["names"][reach.name]
    assert has is not None or not reach.takes
    assert set(reach.takes) <= set(has or ())
    assert set(reach.younger).isdisjoint(has or ()), "the floor knows it: pass it as it is"


@pytest.mark.parametrize("reach", REACHES, ids=lambda reach: reach.name)
def test_the_installed_versions_have_every_reach(reach: Reach) -> None:
    has = takes(resolve(reach.name))
    assert has is not None or not reach.takes
    assert set(reach.takes) <= set(has or ())
    if is_newer(reach.name.partition(".")[0]):
        assert set(reach.younger) <= set(has or ()), "no version in use knows it"


@pytest.mark.parametrize("reach", [each for each in REACHES if each.holds], ids=lambda reach: reach.name)
def test_the_installed_version_sets_the_attributes_in_use(reach: Reach) -> None:
    """On live objects, which a signature does not show; so the source of the module is searched for each."""
    source = inspect.getsource(inspect.getmodule(resolve(reach.name)) or pytest.fail(reach.name))
    assert [name for name in reach.holds if not re.search(rf"\.{name}\b\s*(:[^=\n]+)?=[^=]", source)] == []


def is_newer(package: str) -> bool:
    """Returns whether another release than the recorded floor is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Version(version(package)) > Version(RECORDED["versions"][package])
    except (KeyError, PackageNotFoundError):
        return False


def test_the_recorded_versions_are_the_floors_of_pyproject() -> None:
    recorded, floors = RECORDED["versions"], requirements()
    assert recorded.keys() == floors.keys()
    assert {name: at for name, at in floors.items() if not f"{recorded[name]}.".startswith(f"{at}.")} == {}


def test_private_apis_are_used_in_compat_only() -> None:
    files = sorted(CHECKOUT.glob("distft/**/*.py"))
    own = {name for file in files for name in defined(nodes(file))} | ALLOWED
    outside = [file for file in files if file.parent.name != "compat"]
    assert [place for file in outside for place in private(file, nodes(file), own)] == []


def defined(code: Iterable[ast.AST]) -> Iterator[str]:
    """Yields the names that a file gives to functions, classes, variables and attributes."""
    for node in code:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def private(file: Path, code: Iterable[ast.AST], own: set[str]) -> Iterator[str]:
    """Yields where a file imports, or takes from an object, what a library calls private."""
    modules = libraries()
    for node in code:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, *parts = name.split(".")
            if top in modules and any(map(is_private, parts)):
                yield f"{file}: {name}"
        attribute = taken(node)
        if is_private(attribute) and attribute not in own:
            yield f"{file}:{node.lineno}: {attribute}"


def taken(node: ast.AST) -> str:
    """Returns the attribute that an expression takes, by a dot or by getattr, hasattr or setattr; else empty."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
        return next((each.value for each in node.args[1:2] if isinstance(each, ast.Constant)), "")
    return ""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_a_private_name_outside_compat_is_found() -> None:
    tree = ast.parse("from torch._utils import x\nmodel._secret_part\nself._mine\nmodel.__class__")
    assert len(list(private(Path("here.py"), ast.walk(tree), {"_mine"}))) == 2
    by_name = ast.parse("getattr(model, '_secret_part', None)\nsetattr(self, '_mine', 1)\ngetattr(model, name)")
    assert len(list(private(Path("here.py"), ast.walk(by_name), {"_mine"}))) == 1


def test_an_option_is_passed_where_it_is_known() -> None:
    def older(spec: int) -> int:
        return spec

    def younger(spec: int, seconds: int = 30) -> int:
        return spec + seconds

    assert known(older, seconds=3) == {} and known(younger, seconds=3) == {"seconds": 3}
    assert parameters(younger) == {"spec", "seconds"}


@pytest.mark.slow
def test_every_used_name_and_keyword_exists_when_installed() -> None:
    found = list(uses())
    names = signatures({each.name for each in found})
    assert [wrong for each in found if (wrong := unknown(each, names))] == []
